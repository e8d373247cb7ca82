"""Selections as runs: which users train the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from puma_engine.defaults import DEFAULT_STRATEGIES
from puma_engine.errors import ConfigError, SelectionError
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.importing_data import load_dataset, task_of
from puma_engine.pipeline.stage import (
    PROMPT_KINDS,
    Clock,
    Outcome,
    Reference,
    find,
    run_stage,
    slug,
)
from puma_engine.pipeline.stage_progress import CancelCheck, ProgressCallback, announce
from puma_engine.pipeline.stored_prompts import load_prompts
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.datasets import Dataset
    from puma_engine.selection import Signals


def select(
    ws: Workspace,
    prompts: Reference,
    *,
    strategy: str | None = None,
    budget: int | None = None,
    share: float | None = None,
    seed: int = 0,
    clusters: int = 15,
    groups: int = 5,
    min_cluster: int = 50,
    within: Sequence[Reference] = (),
    name: str | None = None,
    device: str | None = None,
    progress: ProgressCallback | None = None,
    should_cancel: CancelCheck | None = None,
) -> Run:
    """Choose users to train an adapter on, from their prompts and their train rows.

    strategy: None for the one that suits the data set's outcomes (`DEFAULT_STRATEGIES`). budget
    counts users; share is of all candidates, in (0, 1]; strategy "all" needs neither. within:
    other prompt runs that must have the users too. Raises SelectionError.
    """
    source = find(ws, prompts, *PROMPT_KINDS)
    others = [find(ws, other, *PROMPT_KINDS) for other in within]
    strategy = strategy or DEFAULT_STRATEGIES[task_of(ws, source)]
    config = {
        "strategy": strategy,
        "budget": _one_budget(strategy, budget, share),
        "share": share,
        "clusters": clusters,
        "groups": groups,
        "min_cluster": min_cluster,
    }
    inputs = {"prompts": source.id} | {f"within_{i}": run.id for i, run in enumerate(others)}

    def work(run_id: str, _folder: Path, clock: Clock) -> Outcome:
        announce(progress, f"selecting users by {strategy}")
        signals, used = _signals(ws, source, others, strategy, device, clock)
        return _draw(ws, run_id, signals, config, seed, used)

    return run_stage(
        ws,
        "selection",
        name=name or slug(strategy, budget or share, source.name),
        config=config,
        inputs=inputs,
        seed=seed,
        work=work,
    )


def _draw(
    ws: Workspace, run_id: str, signals: Signals, config: dict[str, Any], seed: int, used: str
) -> Outcome:
    from puma_engine.selection import select_users

    strategy, count = config["strategy"], len(signals.user_ids)
    chosen = select_users(
        strategy,
        signals,
        _count(config["budget"], config["share"], count),
        seed=seed,
        clusters=config["clusters"],
        groups=config["groups"],
        min_cluster=config["min_cluster"],
    )
    ws.put_table(run_id, "selection", _frame(signals.user_ids, chosen))
    summary = {"strategy": strategy, "selected": len(chosen.user_ids), "users": count}
    return Outcome(used, {}, summary | {"report": chosen.report})


def _one_budget(strategy: str, budget: int | None, share: float | None) -> int | None:
    if strategy != "all" and (budget is None) == (share is None):
        raise ConfigError(
            f"The strategy {strategy!r} needs a budget (users) or a share of users, and not both."
        )
    if share is not None and not 0 < share <= 1:
        raise SelectionError(f"The share of users must be above 0 and at most 1, not {share!r}.")
    return budget


def _count(budget: int | None, share: float | None, candidates: int) -> int:
    if budget is not None:
        return budget
    return candidates if share is None else max(1, round(share * candidates))


def _signals(
    ws: Workspace,
    source: Run,
    others: list[Run],
    strategy: str,
    device: str | None,
    clock: Clock,
) -> tuple[Signals, str]:
    """Signals of the users whom all tables and the data set hold, and the device used."""
    # Loaded here, so that their loading is not counted as the selection's cost.
    import sklearn.cluster
    import sklearn.decomposition  # noqa: F401

    from puma_engine.evaluation import prediction
    from puma_engine.pipeline.fitting import device_name
    from puma_engine.selection import Signals

    dataset = load_dataset(ws, source.inputs["dataset"])
    table = load_prompts(ws, source)
    clock.restart()
    needed = costly_signals(strategy)
    loss = activations = None
    used = "cpu"
    if needed:
        backbone = load_backbone(ws, source.inputs["backbone"], device=device)
        used = device_name(str(backbone.device))
        clock.restart()
        if "loss" in needed:
            loss = prediction.user_losses(
                backbone, table, dataset, template=source.config["template"]
            )
        if "activations" in needed:
            activations = prediction.ffn_activations(backbone, table)
    users = np.intersect1d(table.user_ids, dataset.users)
    for other in others:
        users = np.intersect1d(users, load_prompts(ws, other).user_ids)
    if not len(users):
        raise SelectionError(
            "No user is in the data set and in every source; check that they share user ids."
        )
    rows = table.rows_of(users)
    signals = Signals(
        user_ids=users,
        embedding=table.vectors[rows].reshape(len(rows), -1),
        variance=prediction.user_variances(table, dataset)[rows],
        loss=None if loss is None else loss[rows],
        activations=None if activations is None else activations[rows],
        activity=train_rows(dataset, users),
    )
    return signals, used


def train_rows(dataset: Dataset, users: np.ndarray) -> np.ndarray:
    """Count the train rows of each user, [users] int; 0 for those whom the data set lacks."""
    counts = dataset.rows("train")["user_id"].value_counts()
    return counts.reindex(users, fill_value=0).to_numpy(dtype=np.int64)


def costly_signals(strategy: str) -> set[str]:
    """Return which signals of a strategy need the source backbone: loss, activations."""
    words = strategy.split("-")
    return {signal for word, signal in _COSTLY.items() if word in words}


_COSTLY = {"loss": "loss", "ffn": "activations"}


def _frame(candidates: np.ndarray, chosen: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"user_id": candidates})
    for name, labels in chosen.group.items():
        frame[name] = labels
    frame["selected"] = np.isin(candidates, chosen.user_ids)
    return frame


def selected_users(ws: Workspace, reference: Reference) -> np.ndarray:
    """Return the ids of the chosen users of a selection run, sorted, [budget] of str."""
    frame = ws.get_table(find(ws, reference, "selection").id, "selection")
    return np.sort(frame.loc[frame["selected"].astype(bool), "user_id"].to_numpy(dtype=str))
