"""The text that a model's chat template puts around the user's turn, up to the assistant's answer."""

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from puma_engine.backbone import chat_program
from puma_engine.errors import BackboneError

# Placeholder for the user's text while a chat template is rendered; no template contains it.
_CONTENT = "PumaUserTurn7f3a"
# Some chat templates write today's date, and prompts must be read tomorrow as they were fitted.
_DATE = "{%- macro puma_date(format) -%}26 Jul 2024{%- endmacro %}"
MAX_CHARACTERS = 20_000
# Of the whole process, most of which goes into imports; a busy machine may need many times as long.
SECONDS = 120


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """Return the texts that a tokenizer's chat template puts before and behind a single user turn.

    The second text ends where the assistant's answer begins. Chat templates are code of third
    parties: transformers renders them in its sandbox, in a process whose time and memory are
    limited. The date that they see is fixed. Raises BackboneError if there is no chat template, if
    it fails or exceeds a limit, or if it does not write the user's text once.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BackboneError(
            "The model has no chat template; leave out --chat-template, give a template file with "
            "chat_template = false for prompts that were fitted in one, or choose an instruct model."
        )
    try:
        program = tokenizer.get_chat_template()
    except ValueError as error:  # several templates, and none is the default
        raise _unusable(str(error)) from None
    if "strftime_now" in program:
        program = _DATE + program.replace("strftime_now", "puma_date")
    tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    text = _rendered(program, json.dumps(tokens))
    before, *rest = text.split(_CONTENT)
    if len(rest) != 1:
        raise BackboneError(
            f"The model's chat template writes the user's text {len(rest)} times, not once; leave out "
            "--chat-template."
        )
    return before, rest[0]


@functools.lru_cache(maxsize=32)
def _rendered(program: str, special_tokens: str) -> str:
    """Render a chat template in a process of its own; see `chat_program`."""
    request = {
        "program": program,
        "special_tokens": json.loads(special_tokens),
        "content": _CONTENT,
        "most": MAX_CHARACTERS,
    }
    # -P: the folder of the file is not searched for modules.
    command = [sys.executable, "-P", str(Path(chat_program.__file__))]
    try:
        process = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _unusable(f"its process did not end within {SECONDS:g} seconds") from None
    if process.returncode == -signal.SIGXCPU:
        raise _unusable(f"it takes more than {chat_program.CPU_SECONDS} seconds")
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [""])[-1]
        raise _unusable(f"its process ended with status {process.returncode}: {last[:200]}")
    answer = json.loads(process.stdout)
    if "error" in answer:
        raise _unusable(answer["error"])
    return str(answer["text"])


def _unusable(reason: str) -> BackboneError:
    return BackboneError(
        f"The model's chat template cannot be used ({reason.strip().rstrip('.')}); leave out "
        "--chat-template."
    )
