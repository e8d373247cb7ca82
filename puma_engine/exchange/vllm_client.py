"""A reference client: predictions from a vLLM server for prompts of `puma prompts embed`.

    vllm serve MODEL --enable-prompt-embeds --logprobs-mode processed_logprobs
    python -m puma_engine.exchange.vllm_client prompts.safetensors --url http://localhost:8000

It prints user, item and prediction as CSV. It uses only the head of the engine, so its code also
documents the protocol.
"""

import argparse
import csv
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import torch

from puma_engine.backbone.tasks import get_task
from puma_engine.errors import PumaError
from puma_engine.exchange.prompt_embeddings import Embedded, read_embedded, requests

TIMEOUT = 60.0


class ServerError(PumaError):
    """The server cannot be reached, or returned something unexpected."""


def complete(url: str, body: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    """POST a body to a server's /v1/completions and return its JSON. Raises ServerError."""
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    address = url.rstrip("/") + "/v1/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            completion: dict[str, Any] = json.load(response)
            return completion
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")[:300]
        raise ServerError(f"The server at {url} answered {error.code}: {text}") from error
    except (OSError, ValueError) as error:
        raise ServerError(f"The server at {url} cannot be reached: {error}") from error


def answer_logprobs(completion: dict[str, Any], tokens: list[int]) -> list[float]:
    """Return the log-probability of each answer token. Raises ServerError."""
    try:
        top = completion["choices"][0]["logprobs"]["top_logprobs"][0]
        return [float(top[f"token_id:{token}"]) for token in tokens]
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(
            "The server did not return the log-probabilities of all answers; start vLLM with "
            "--logprobs-mode processed_logprobs."
        ) from error


@torch.no_grad()
def predictions(prompts: Embedded, url: str, token: str | None = None) -> Iterator[float]:
    """Yield a rating, or the probability of a click, for each prompt in order.

    Raises ServerError, also for rating prompts without a head.
    """
    task = get_task(prompts.task)
    head = task.head(3.0, torch.Generator().manual_seed(0))
    if prompts.head is None and prompts.task == "rating":
        raise ServerError("These prompts come without a rating head; export them with their head.")
    if prompts.head is not None:
        head.load_state_dict({k: torch.from_numpy(v) for k, v in prompts.head.items()})
    for body in requests(prompts):
        logprobs = answer_logprobs(complete(url, body, token), list(prompts.answers.values()))
        yield float(task.predict(torch.tensor([logprobs]), head.eval())[0])


def main(arguments: list[str] | None = None) -> int:
    """Print predictions as CSV; the token comes from the environment variable VLLM_API_KEY."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("prompts", help="file of puma prompts embed (.safetensors)")
    parser.add_argument("--url", default="http://localhost:8000")
    options = parser.parse_args(arguments)
    writer = csv.writer(sys.stdout)
    try:
        prompts = read_embedded(options.prompts)
        writer.writerow(["user_id", "item_id", "prediction"])
        values = predictions(prompts, options.url, os.environ.get("VLLM_API_KEY"))
        for row, value in zip(prompts.rows, values, strict=True):
            writer.writerow([*row, value])
    except PumaError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
