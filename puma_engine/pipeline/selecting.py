"""Selections as runs: the users who train an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from puma_engine.defaults import CLUSTERS, DEFAULT_STRATEGIES, MIN_CLUSTER, STRATA
from puma_engine.errors import SelectionError
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.importing_data import load_dataset, task_of
from puma_engine.pipeline.stored_prompts import has_model, load_prompts, model_of, template_of
from puma_engine.requests import SelectionRequest
from puma_engine.selection.strategies import check_groups, get_strategy
from puma_engine.store import Run, Workspace

# Signals that the source backbone has to compute.
SOURCE_SIGNALS = {"loss", "activations"}

if TYPE_CHECKING:
    from puma_engine.datasets import Dataset
    from puma_engine.selection.signals import Signals


def select(
    ws: Workspace,
    prompts: stage.Reference,
    *,
    strategy: str | None = None,
    budget: int | None = None,
    share: float | None = None,
    seed: int = 0,
    clusters: int = CLUSTERS,
    strata: int = STRATA,
    min_cluster: int = MIN_CLUSTER,
    within: Sequence[stage.Reference] = (),
    name: str | None = None,
    device: str | None = None,
    progress: stage.ProgressCallback | None = None,
    should_cancel: stage.CancelCheck | None = None,
    groups: int | None = None,
) -> Run:
    """Choose users to train an adapter on, from their prompts and their train rows.

    strategy: None for the default of the task (`defaults.DEFAULT_STRATEGIES`). budget counts users;
    share is of all candidates, in (0, 1]; strategy "all" takes neither. clusters: of k-means;
    strata: of variance or loss in each cluster; min_cluster: minimum number of users of each
    cluster, if it has so many; these three are refused for a strategy without such groups. within:
    other prompt runs that must have the users, too. groups: deprecated name of strata. Raises
    SelectionError, ConfigError, NotFoundError.
    """
    strata = strata if groups is None else groups
    request = SelectionRequest.from_arguments(locals())
    return run_selection(ws, request, stage.Execution(device, progress, should_cancel))


def run_selection(ws: Workspace, request: SelectionRequest, execution: stage.Execution) -> Run:
    """Execute a request to select users; see `select`."""
    source = stage.find(ws, request.prompts, *stage.PROMPT_KINDS)
    others = [stage.find(ws, other, *stage.PROMPT_KINDS) for other in request.within]
    strategy = request.strategy or DEFAULT_STRATEGIES[task_of(ws, source)]
    if not has_model(source) and asks_model(strategy):
        raise SelectionError(
            f"The strategy {strategy!r} needs the source's language model, and the vectors of "
            f"{source.name!r} have none; choose another strategy."
        )
    sizes = {"clusters": request.clusters, "min_cluster": request.min_cluster}
    check_groups(strategy, strata=request.strata, **sizes)

    def compute(run_id: str, _folder: Path, clock: stage.Clock) -> stage.StageResult:
        from puma_engine.selection.strategies import select_users

        execution.announce(f"selecting users by {strategy}")
        signals, device = _signals(ws, source, others, strategy, execution.device, clock)
        candidates, budget = len(signals.user_ids), request.budget
        if budget is None:
            share = 1.0 if request.share is None else request.share
            budget = max(1, round(share * candidates))
        chosen = select_users(
            strategy, signals, budget, seed=request.seed, strata=request.strata, **sizes
        )
        frame = pd.DataFrame({"user_id": signals.user_ids, **chosen.group})
        frame["selected"] = np.isin(signals.user_ids, chosen.user_ids)
        ws.put_table(run_id, "selection", frame)
        summary = {"strategy": strategy, "selected": len(chosen.user_ids), "users": candidates}
        return stage.StageResult(device, {}, summary | {"report": chosen.report})

    by_ids = replace(request, prompts=source.id, within=tuple(run.id for run in others))
    return stage.run_stage(
        ws,
        "selection",
        name=request.name or stage.slug(strategy, request.budget or request.share, source.name),
        config={
            "strategy": strategy,
            "budget": request.budget,
            "share": request.share,
            "groups": request.strata,
            **sizes,
        },
        inputs={"prompts": source.id} | {f"within_{i}": run.id for i, run in enumerate(others)},
        seed=request.seed,
        compute=compute,
        remote_compute=execution.remote_compute("select", by_ids),
    )


def asks_model(strategy: str) -> bool:
    """Return whether a strategy needs signals that the source's language model computes."""
    return bool(get_strategy(strategy).needs & SOURCE_SIGNALS)


def _signals(
    ws: Workspace,
    source: Run,
    others: list[Run],
    strategy: str,
    device: str | None,
    clock: stage.Clock,
) -> tuple[Signals, str]:
    """Return signals of the users whom all tables and the data set have, and the device."""
    # Loaded here, so that loading is not part of the selection's cost.
    import sklearn.cluster
    import sklearn.decomposition  # noqa: F401

    from puma_engine.evaluation import prediction
    from puma_engine.pipeline.fitting import device_name
    from puma_engine.selection.signals import Signals

    dataset = load_dataset(ws, source.inputs["dataset"])
    table = load_prompts(ws, source)
    clock.restart()
    needed = get_strategy(strategy).needs & SOURCE_SIGNALS
    loss = activations = None
    used = "cpu"
    if needed:
        backbone = load_backbone(ws, model_of(source), device=device)
        used = device_name(str(backbone.device))
        clock.restart()
        if "loss" in needed:
            loss = prediction.user_losses(backbone, table, dataset, template=template_of(source))
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
        embedding=table.embedding[rows],
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


def selected_users(ws: Workspace, reference: stage.Reference) -> np.ndarray:
    """Return the ids of the chosen users of a selection run, sorted, [budget] of str."""
    frame = ws.get_table(stage.find(ws, reference, "selection").id, "selection")
    return np.sort(frame.loc[frame["selected"].astype(bool), "user_id"].to_numpy(dtype=str))
