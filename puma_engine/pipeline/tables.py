"""Prompt tables in the workspace and in files of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.errors import DataError
from puma_engine.pipeline.stage import PROMPT_KINDS, Reference, find
from puma_engine.store import Run, Workspace
from puma_engine.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from puma_engine.prompts import PromptTable

ARTIFACT = "prompts"
HEAD = "head."


@dataclass(frozen=True)
class PromptFile:
    """A prompt table outside any workspace: what is needed to import it, and its origin."""

    user_ids: list[str]
    vectors: np.ndarray
    head: dict[str, np.ndarray] | None
    meta: dict[str, Any]


def keep_prompts(ws: Workspace, run_id: str, table: PromptTable) -> None:
    """Write a prompt table as the artifact of a run, keyed by user id."""
    arrays = {"vectors": table.vectors} | _with_prefix(table.head)
    ws.put_tensors(run_id, ARTIFACT, arrays, ids=table.user_ids.tolist(), meta=table.meta)


def shape_of(table: PromptTable) -> dict[str, int]:
    """Return users, tokens and width of a table, as its run tells them."""
    return {"users": len(table.user_ids), "tokens": table.tokens, "width": table.width}


def load_prompts(ws: Workspace, reference: Reference) -> PromptTable:
    """Read the prompt table of a finished prompts or migration run."""
    from puma_engine.prompts import PromptTable

    run = find(ws, reference, *PROMPT_KINDS)
    arrays, ids, meta = ws.get_tensors(run.id, ARTIFACT)
    return PromptTable(
        np.array(list(ids or ()), dtype=str), arrays["vectors"], _head(arrays), meta or {}
    )


def export_prompts(
    ws: Workspace, reference: Reference, path: str | Path, *, command: str | None = None
) -> Path:
    """Write a run's prompts to one safetensors file that `import_prompts` reads.

    Its metadata hold the user ids in row order, the settings, what the prompts were
    fitted on, and the command that made them.
    """
    run = find(ws, reference, *PROMPT_KINDS)
    table = load_prompts(ws, run)
    dataset, backbone = (ws.run(run.inputs[role]) for role in ("dataset", "backbone"))
    meta = {
        "user_ids": table.user_ids.tolist(),
        "template": run.config["template"],
        "config": run.config,
        "seed": run.seed,
        "dataset": {
            "name": dataset.summary["dataset"],
            "content_hash": dataset.summary["content_hash"],
        },
        "backbone": {
            "spec": backbone.config["spec"],
            "fingerprint": backbone.config["fingerprint"],
        },
        "seconds": run.seconds,
        "device": run.device,
        "versions": run.versions,
        "command": command,
    }
    file = Path(path)
    save_tensors(file, {"vectors": table.vectors} | _with_prefix(table.head), meta)
    return file


def read_prompt_file(path: str | Path) -> PromptFile:
    """Read an exported prompt file. Raises StoreError or DataError when it is none."""
    arrays, meta = load_tensors(Path(path))
    if not isinstance(meta, dict) or "user_ids" not in meta or "vectors" not in arrays:
        raise DataError(
            f"The file {path} holds no prompts with user ids; give one made by puma prompts export."
        )
    vectors = np.asarray(arrays["vectors"], dtype=np.float32)
    ids = [str(user) for user in meta["user_ids"]]
    if vectors.ndim != 3 or len(ids) != len(vectors):
        raise DataError(
            f"The file {path} has {len(ids)} user ids for vectors of shape {vectors.shape}; "
            "export it again."
        )
    return PromptFile(ids, vectors, _head(arrays), meta)


def keep_adapter(
    ws: Workspace, run_id: str, tensors: dict[str, np.ndarray], meta: dict[str, Any]
) -> None:
    """Write a migration's adapter as an artifact of its run."""
    ws.put_tensors(run_id, "adapter", tensors, meta=meta)


def load_adapter(
    ws: Workspace, reference: Reference
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the tensors and settings of a migration run's adapter."""
    arrays, _, meta = ws.get_tensors(find(ws, reference, "migration").id, "adapter")
    return arrays, meta or {}


def template_of(run: Run, given: str | None = None) -> str:
    """Return the template a prompts or migration run was made with, unless another is given."""
    return given or str(run.config["template"])


def _with_prefix(head: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    return {HEAD + name: value for name, value in (head or {}).items()}


def _head(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    head = {name.removeprefix(HEAD): v for name, v in arrays.items() if name.startswith(HEAD)}
    return head or None
