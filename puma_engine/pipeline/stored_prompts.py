"""Prompt tables and adapters in the workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.errors import ConfigError
from puma_engine.exchange.prompt_file import head_of, with_head
from puma_engine.pipeline.stage import PROMPT_KINDS, Reference, find
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts.item_prompts import ItemPrompts
    from puma_engine.prompts.table import PromptTable

ARTIFACT = "prompts"
ITEMS = "items"


def keep_prompts(ws: Workspace, run_id: str, table: PromptTable) -> None:
    """Write a prompt table as the artifact of a run, keyed by user id."""
    arrays = {"vectors": table.vectors} | with_head(table.head)
    ws.put_tensors(run_id, ARTIFACT, arrays, ids=table.user_ids.tolist(), meta=table.meta)
    if table.items is not None:
        arrays = {"vectors": table.items.vectors, "other": table.items.other}
        ws.put_tensors(run_id, ITEMS, arrays, meta={"item_ids": table.items.item_ids.tolist()})


def shape_of(table: PromptTable) -> dict[str, int]:
    """Return users, tokens and width of a table, as its run tells them; and of items, tokens."""
    found = {"users": len(table.user_ids), "tokens": table.tokens, "width": table.width}
    return found if table.items is None else found | {"item_tokens": table.items.tokens}


def load_prompts(ws: Workspace, reference: Reference) -> PromptTable:
    """Read the prompt table of a finished prompts or migration run."""
    from puma_engine.prompts.table import PromptTable

    run = find(ws, reference, *PROMPT_KINDS)
    arrays, ids, meta = ws.get_tensors(run.id, ARTIFACT)
    return PromptTable(
        np.array(list(ids or ()), dtype=str),
        arrays["vectors"],
        head_of(arrays),
        meta or {},
        load_items(ws, run),
    )


def load_items(ws: Workspace, run: Run) -> ItemPrompts | None:
    """Read the soft prompts of items that belong to a run's table, or return None."""
    from puma_engine.prompts.item_prompts import ItemPrompts

    if not run.summary.get("item_tokens"):
        return None
    arrays, _, meta = ws.get_tensors(run.id, ITEMS)
    ids = np.array((meta or {})["item_ids"], dtype=str)
    return ItemPrompts(ids, arrays["vectors"], arrays["other"])


def refuse_items(run: Run, what: str) -> None:
    """Raise ConfigError if a run has soft prompts of items, which `what` cannot hold."""
    if run.summary.get("item_tokens"):
        raise ConfigError(
            f"The run {run.name} has soft prompts of items beside the users', which {what} cannot hold; "
            "write whole inputs with `puma prompts embed`, or use prompts without --item-tokens."
        )


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
