"""Render a chat template within limits of time and memory; `chat` runs this file as a process.

A chat template is code of a third party. The sandbox of transformers keeps it from the machine, but
cannot stop it: only a process can be ended in the middle of an operation such as 9**9**9. Reads
{"program", "special_tokens", "content", "most"} from standard input and writes {"text"} or
{"error"} to standard output, both as JSON.
"""

import contextlib
import json
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

# Chat templates of instruct models take milliseconds.
CPU_SECONDS = 2
MEMORY_BYTES = 512 << 20


def _set_limits() -> None:
    """Limit this process to CPU_SECONDS and MEMORY_BYTES more than it has used."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: math.ceil(time.process_time()) + CPU_SECONDS,
    }
    with contextlib.suppress(OSError):  # only Linux has the file
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + MEMORY_BYTES
    for kind, soft in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(
            kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
        )


def render(request: dict[str, Any]) -> dict[str, str]:
    """Render a chat template for one turn of a user, and return its text, or why it has none."""
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered: Any = render_jinja_template(
            conversations=[[{"role": "user", "content": request["content"]}]],
            chat_template=request["program"],
            add_generation_prompt=True,
            **request["special_tokens"],
        )
        text = str(rendered[0][0])
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"}
    except Exception as error:
        # Code of a third party may raise anything.
        return {"error": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}
    if len(text) > request["most"]:
        return {"error": f"it writes {len(text):,} characters, and {request['most']:,} are allowed"}
    return {"text": text}


def main() -> None:
    # The import takes longer than the rendering, so it comes before the limits.
    import transformers.utils.chat_template_utils  # noqa: F401

    _set_limits()
    json.dump(render(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
