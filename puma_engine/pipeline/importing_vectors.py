"""Vectors of users and items that no language model made, as runs from which migrations can start.

Such a run is a prompt table without a backbone. An adapter maps its vectors to soft prompts of a
model, like the prompts of another model.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puma_engine.errors import ConfigError, DataError
from puma_engine.exchange.prompt_formats import TABLES, content_hash, read_prompts
from puma_engine.pipeline import stage
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import VECTORS, save_prompts, shape_of
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.prompts.item_prompts import ItemPrompts

BASELINE = "matrix_factorisation"
LOG = logging.getLogger(__name__)


def import_vectors(
    ws: Workspace,
    dataset: stage.Reference,
    path: str | Path,
    *,
    users: str | Path | None = None,
    tokens: int | None = None,
    items: str | Path | None = None,
    item_ids: str | Path | None = None,
    vector_columns: str | None = None,
    name: str | None = None,
) -> Run:
    """Import users' vectors of any origin and width, joined with a data set by user id.

    path, users, tokens, vector_columns: as for `import_prompts`. items: a table with item_id and
    vectors of items, which migrations map to item prompts by a separate adapter; item_ids: a file
    with the id of each row. vector_columns applies to both tables. Ids must match exactly. Users
    and items that the tables lack are counted; a migration gives them the mean vector. Raises
    DataError, also if no id matches; StoreError; ConfigError for files with prompts of a model.
    """
    data = stage.find(ws, dataset, "dataset")
    if item_ids is not None and items is None:
        raise ConfigError("--item-ids names the rows of --items, which is missing; give both.")
    file = read_prompts(path, users=users, tokens=tokens, vector_columns=vector_columns)
    if file.head is not None or file.meta.get("backbone"):
        model = (file.meta.get("backbone") or {}).get("spec")
        raise ConfigError(
            f"The file {path} holds prompts that were fitted on {model or 'a language model'}; name "
            "that model with --backbone."
        )
    item_file = None
    if items is not None:
        of_items = vector_columns if Path(items).suffix.lower() in TABLES else None
        item_file = read_prompts(items, users=item_ids, owner="item", vector_columns=of_items)
    config: dict[str, Any] = {"role": VECTORS, "imported": content_hash(path, users)}
    if tokens is not None:
        config["tokens"] = tokens
    if vector_columns is not None:
        config["vector_columns"] = vector_columns
    if items is not None:
        config["imported_items"] = content_hash(items, item_ids)

    def compute(run_id: str, _folder: Path, _clock: stage.Clock) -> stage.StageResult:
        interactions = load_dataset(ws, data)
        owners, vectors = _matching(file.user_ids, file.vectors, interactions.users, "user", path)
        table_items = None
        if item_file is not None:
            known = interactions.items["item_id"].to_numpy(dtype=str)
            ids, values = _matching(item_file.user_ids, item_file.vectors, known, "item", items)
            table_items = _item_prompts(ids, values)
        summary = _save(ws, run_id, owners, vectors, table_items, {"vectors": Path(path).name})
        summary |= {"imported_users_in_file": len(file.user_ids)}
        summary |= _missing(interactions, owners, table_items)
        for kind, count in (("users", len(interactions.users)), ("items", len(interactions.items))):
            if 2 * summary.get(f"{kind}_missing", 0) > count:
                LOG.warning(
                    "%s of %s %s have no vector, and migrations give them the mean one; check that "
                    "their ids are written as in the data set.",
                    f"{summary[f'{kind}_missing']:,}",
                    f"{count:,}",
                    kind,
                )
        return stage.StageResult(summary=summary)

    return stage.run_stage(
        ws,
        "prompts",
        name=name or stage.slug(VECTORS, data.name),
        config=config,
        inputs={"dataset": data.id},
        compute=compute,
    )


def vectors_from_baseline(
    ws: Workspace,
    dataset: stage.Reference,
    *,
    factors: int | None = None,
    users_only: bool = False,
    seed: int = 0,
    name: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
) -> Run:
    """Take the vectors of users and items from our matrix factorisation of a data set's train rows.

    A vector is the bias and the factors. factors: their number; None: chosen on validation rows, as
    the baseline does. users_only: leave the items' vectors out. seed: of the initial item factors.
    Raises ConfigError; DataError if validation rows are missing or factors do not lower the error.
    """
    if factors is not None and factors < 1:
        raise ConfigError(f"The number of factors must be 1 or more, not {factors}.")
    data = stage.find(ws, dataset, "dataset")
    config: dict[str, Any] = {"role": VECTORS, "baseline": BASELINE, "factors": factors}
    if users_only:
        config["users_only"] = True

    def compute(run_id: str, _folder: Path, clock: stage.Clock) -> stage.StageResult:
        from puma_engine.evaluation.baselines import MatrixFactorisation

        stage.Execution(None, progress, should_cancel).announce("factorising the train rows")
        interactions = load_dataset(ws, data)
        train, validation = (interactions.rows(split) for split in ("train", "validation"))
        if validation.empty:
            raise DataError(
                f"The data set {data.name!r} has no validation rows, which choose the factorisation's "
                "settings; import it with more rows of each user."
            )
        clock.restart()
        model = MatrixFactorisation(factors, seed).fit(train, validation)
        user_vectors, item_vectors = model.parameters
        if user_vectors.shape[1] < 2:
            raise DataError(
                f"No number of factors predicts the validation rows of {data.name!r} better than "
                "biases do; give a number with --factors to use it anyway."
            )
        items = None if users_only else _item_prompts(model.items, item_vectors[:, None])
        meta = {"vectors": BASELINE}
        summary = _save(ws, run_id, model.users, user_vectors[:, None], items, meta)
        summary |= _missing(interactions, model.users, items)
        summary |= {
            "factors": user_vectors.shape[1] - 1,
            "ridge": model.ridge,
            "bias_shrinkages": list(model.shrinkage),
            "best_validation": model.error,
        }
        return stage.StageResult(cost={"users_trained": len(model.users)}, summary=summary)

    return stage.run_stage(
        ws,
        "prompts",
        name=name or stage.slug("factors", factors, data.name),
        config=config,
        inputs={"dataset": data.id},
        seed=seed,
        compute=compute,
    )


def _matching(
    ids: Sequence[str], vectors: np.ndarray, known: np.ndarray, owner: str, path: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and vectors that the data set has, in its order. Raises DataError."""
    row_of = {id_: row for row, id_ in enumerate(ids)}
    known_ids = [id_ for id_ in known.tolist() if id_ in row_of]
    if not known_ids:
        raise DataError(
            f"No {owner} of {path} (first: {ids[0]!r}) is in the data set (first: {str(known[0])!r}); "
            "ids must match exactly."
            if ids
            else f"The file {path} has no rows."
        )
    chosen = vectors[[row_of[id_] for id_ in known_ids]]
    if chosen[0].size < 2 or not chosen.std(axis=0).any():
        raise DataError(
            f"The vectors of {path} have {chosen[0].size} numbers each, and tell no {owner}s apart; they "
            "need two numbers or more, and must differ."
        )
    return np.array(known_ids, dtype=str), chosen


def _item_prompts(ids: np.ndarray, vectors: np.ndarray) -> ItemPrompts:
    """Return vectors of items [m, l, d] as item prompts; every other item has their mean."""
    from puma_engine.prompts.item_prompts import ItemPrompts

    return ItemPrompts(ids, vectors, vectors.mean(axis=0))


def _save(
    ws: Workspace,
    run_id: str,
    users: np.ndarray,
    vectors: np.ndarray,
    items: ItemPrompts | None,
    meta: dict[str, Any],
) -> dict[str, Any]:
    """Store vectors [n, l, d] as the table of a run; return its summary."""
    from puma_engine.prompts.table import PromptTable

    table = PromptTable(users, vectors, None, meta, items)
    save_prompts(ws, run_id, table)
    return shape_of(table) | ({} if items is None else {"item_width": items.other.shape[1]})


def _missing(interactions: Any, users: np.ndarray, items: ItemPrompts | None) -> dict[str, int]:
    """Count the users and items of a data set that have no vector, for the run's summary."""
    missing = {"users_missing": len(interactions.users) - len(users)}
    if items is not None:
        missing["items_missing"] = len(interactions.items) - len(items.item_ids)
    return missing
