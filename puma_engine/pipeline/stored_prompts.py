"""Save prompt tables and adapters in the workspace, load them, and read them in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.backbone.templates import PIECEWISE, RUNNING, Template, get_template
from puma_engine.defaults import DEFAULT_TEMPLATES
from puma_engine.errors import ConfigError, DataError, NotFoundError
from puma_engine.exchange.prompt_file import HEAD, head_of, with_head
from puma_engine.pipeline import stage
from puma_engine.requests import AdapterRequest, FitRequest
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts.item_prompts import ItemPrompts
    from puma_engine.prompts.table import PromptTable

ARTIFACT = "prompts"
ITEMS = "items"
# Role of a table of vectors that no language model made, see `importing_vectors`.
VECTORS = "vectors"
BLOCK = 4096
MAX_SHOWN_ID = 60


def save_prompts(ws: Workspace, run_id: str, table: PromptTable) -> None:
    """Write a prompt table as the artifact of a run, keyed by user id."""
    arrays = {"vectors": table.vectors} | with_head(table.head)
    ws.put_tensors(run_id, ARTIFACT, arrays, ids=table.user_ids.tolist(), meta=table.meta)
    if table.items is not None:
        arrays = {"vectors": table.items.vectors, "other": table.items.other}
        meta: dict[str, Any] = {"item_ids": table.items.item_ids.tolist()}
        if table.items.first:
            meta["first"] = True
        ws.put_tensors(run_id, ITEMS, arrays, meta=meta)


def shape_of(table: PromptTable) -> dict[str, Any]:
    """Return a table's shape and participation ratio for its run's summary.

    Names: users, tokens, width, participation_ratio; item_tokens if the table has some.
    """
    shape: dict[str, Any] = {
        "users": len(table.user_ids),
        "tokens": table.tokens,
        "width": table.width,
    }
    shape["participation_ratio"] = table.participation_ratio()
    return shape if table.items is None else shape | {"item_tokens": table.items.tokens}


def load_prompts(ws: Workspace, reference: stage.Reference) -> PromptTable:
    """Read the prompt table of a finished prompts or migration run."""
    from puma_engine.prompts.table import PromptTable

    run = stage.find(ws, reference, *stage.PROMPT_KINDS)
    arrays, ids, meta = ws.get_tensors(run.id, ARTIFACT)
    return PromptTable(
        np.array(list(ids or ()), dtype=str),
        _as_float32(arrays["vectors"]),
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
    vectors, other = _as_float32(arrays["vectors"]), _as_float32(arrays["other"])
    return ItemPrompts(ids, vectors, other, bool((meta or {}).get("first")))


def item_settings(ws: Workspace, run: Run) -> dict[str, Any]:
    """Return the prompt settings of a run's item prompts; empty if it has none."""
    if not run.summary.get("item_tokens"):
        return {}
    settings: dict[str, Any] = {"item_tokens": int(run.summary["item_tokens"])}
    before = (ws.open_tensors(run.id, ITEMS).meta["meta"] or {}).get("first")
    return settings | {"item_order": "before"} if before else settings


def _as_float32(vectors: np.ndarray) -> np.ndarray:
    """Return stored vectors as float32; those of published runs have 16 bits."""
    return vectors.astype(np.float32, copy=False)


def refuse_items(run: Run, target: str) -> None:
    """Raise ConfigError if a run has item prompts, which `target` cannot hold."""
    if run.summary.get("item_tokens"):
        raise ConfigError(
            f"The run {run.name} has item prompts beside the users', which {target} cannot hold; "
            "write whole inputs with `puma prompts embed`, or use prompts without --item-tokens."
        )


def save_adapter(
    ws: Workspace, run_id: str, tensors: dict[str, np.ndarray], meta: dict[str, Any]
) -> None:
    """Write a migration's adapter as an artifact of its run."""
    ws.put_tensors(run_id, "adapter", tensors, meta=meta)


def load_adapter(
    ws: Workspace, reference: stage.Reference
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the tensors and settings of a migration run's adapter."""
    arrays, _, meta = ws.get_tensors(stage.find(ws, reference, "migration").id, "adapter")
    return arrays, meta or {}


def template_of(run: Run, override: str | None = None) -> Template:
    """Return the template of a prompts or migration run, or another one that is given.

    In both cases the text is encoded as it was when the run's prompts were fitted, and in the chat
    template if these were; see `Template.replaced_by`.
    """
    fitted = Template.from_config(run.config)
    return fitted.replaced_by(override) if override else fitted


def template_of_sources(sources: Sequence[Run], task: str, request: AdapterRequest) -> Template:
    """Return the template of a request; the default is that of its first source with a model.

    If all sources are vectors, the default is that of the task.
    """
    first, override = next((run for run in sources if has_model(run)), None), request.template
    if first is None:
        return with_chat_template(get_template(override or DEFAULT_TEMPLATES[task]), request)
    return with_chat_template(template_of(first, override), request)


def with_chat_template(template: Template, request: AdapterRequest | FitRequest) -> Template:
    """Return a template, with the model's chat template around it if the request has chat_template."""
    return replace(template, chat_template=True) if request.chat_template else template


def has_model(run: Run) -> bool:
    """Return whether a language model reads a run's table; none reads imported vectors."""
    return "backbone" in run.inputs


def model_of(run: Run) -> str:
    """Return the id of the backbone that reads a run's prompts. Raises ConfigError for vectors."""
    if not has_model(run):
        raise ConfigError(
            f"The run {run.name!r} holds vectors that no language model reads; migrate them to a model "
            "with `puma migrate`, and use the migration."
        )
    return run.inputs["backbone"]


def template_to_fit(
    ws: Workspace,
    kind: str,
    template: Template,
    config: dict[str, Any],
    inputs: dict[str, str],
    seed: int | None,
) -> Template:
    """Return the template of a new fit: encoded as running text, unless the run exists already.

    Up to version 0.1.0 templates were encoded piecewise. If the workspace has a run of the same
    request from then, finished or interrupted, its template is returned.
    """
    if template.chat_template:
        return replace(template, reading=RUNNING)
    earlier = replace(template, reading=PIECEWISE)
    key = ws.run_key(kind, config | earlier.to_config(), inputs, seed)
    try:
        ws.run(key)
    except NotFoundError:
        return replace(template, reading=RUNNING)
    return earlier


class PromptTableReader:
    """The prompt table of a finished prompts or migration run, read in parts of bounded memory.

    user_ids: [users] strings in row order; tokens and width: the shape of one prompt. Raises
    NotFoundError or StoreError.
    """

    def __init__(self, ws: Workspace, reference: stage.Reference) -> None:
        self.run = stage.find(ws, reference, *stage.PROMPT_KINDS)
        self._file = ws.open_tensors(self.run.id, ARTIFACT)
        self.user_ids = pa.array(self._file.meta.pop("ids") or [], pa.string())
        self.tokens, self.width = self._file.shape("vectors")[1:]

    def __len__(self) -> int:
        return len(self.user_ids)

    def row_of(self, user: str, guess: int = 0) -> int | None:
        """Return the row of a user, or None if the table has none.

        guess: the row to try first, such as that of the user in another table.
        """
        if guess < len(self.user_ids) and self.user_ids[guess].as_py() == user:
            return guess
        row = int(pc.index(self.user_ids, pa.scalar(user, pa.string())).as_py())
        return None if row < 0 else row

    def vector(self, user: str) -> np.ndarray:
        """Read a user's prompt, [tokens, width] float32. Raises DataError for an unknown user."""
        row = self.row_of(user)
        if row is None:
            raise DataError(
                f"The user {user[:MAX_SHOWN_ID]!r} has no prompt in the run {self.run.name!r}; give one of "
                f"its {len(self):,} users, such as {self.user_ids[0].as_py()[:MAX_SHOWN_ID]!r}."
            )
        return _as_float32(self._file.read("vectors", row, row + 1)[0])

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each block: its first row and its vectors, [n, tokens * width] float32."""
        for start in range(0, len(self), BLOCK):
            block = _as_float32(self._file.read("vectors", start, start + BLOCK))
            yield start, block.reshape(len(block), -1)

    def mean(self, max_users: int) -> np.ndarray:
        """Return the mean prompt of at most about `max_users` users, [tokens * width] float32.

        Blocks are read that are spread evenly over the table.
        """
        starts = range(0, len(self), BLOCK)
        step = max(1, -(-len(self) // max(max_users, BLOCK)))
        total = np.zeros(self.tokens * self.width)
        count = 0
        for start in starts[::step]:
            block = self._file.read("vectors", start, start + BLOCK)
            total += block.reshape(len(block), -1).sum(0, dtype=np.float64)
            count += len(block)
        return (total / max(count, 1)).astype(np.float32)

    def head(self) -> dict[str, np.ndarray] | None:
        """Read the tensors of the head that was trained with the prompts, or None."""
        names = [name for name in self._file.names() if name.startswith(HEAD)]
        return {name.removeprefix(HEAD): self._file.read(name) for name in names} or None


def check_width(run: Run, model: Run) -> None:
    """Raise ConfigError if a model cannot read a run's prompts unchanged."""
    width, prompt_width = model.summary["width"], run.summary["width"]
    if width != prompt_width:
        raise ConfigError(
            f"The prompts of {run.name!r} have {prompt_width} numbers a token, and {model.name!r} reads {width}; "
            "they can be migrated to it, not reused."
        )
