"""Migration: train an adapter on some users, then map every user's prompt to the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.defaults import EARLY_STOPPING_USERS
from puma_engine.errors import MigrationError
from puma_engine.migration.adapter import Adapter, adapter_tensors, apply_adapter, input_scaling
from puma_engine.prompts.examples import ReaderData, reader_for
from puma_engine.prompts.item_prompts import ItemPrompts, join_items
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import PromptTuningModule, SlotPart, head_tensors, make_head
from puma_engine.training.loop import Progress, TrainingResult, train

Missing = Literal["mean", "drop"]


@dataclass(frozen=True)
class Migrated:
    """The target's prompt table, the adapter that made it, and how its training went.

    flops: as `ReaderData.flops` counts them.
    """

    table: PromptTable
    adapter_tensors: dict[str, np.ndarray]
    adapter_meta: dict[str, Any]
    result: TrainingResult
    flops: float
    item_adapter: dict[str, np.ndarray] | None = None


class AdaptedPrompts(SlotPart):
    """An adapter over the rows of a table of prompts [n, l, d_in]."""

    def __init__(self, sources: Tensor, adapter: Adapter) -> None:
        super().__init__()
        self.tokens = sources.shape[1]
        self.sources: Tensor
        self.register_buffer("sources", sources, persistent=False)
        noise = sources.std(dim=0, keepdim=True, correction=0) * adapter.config.noise
        self.noise: Tensor
        self.register_buffer("noise", noise, persistent=False)
        self.adapter = adapter

    def forward(self, rows: Tensor) -> Tensor:
        """Mapped prompts [B, l, d_out] of row numbers [B]."""
        sources = self.sources[rows.to(self.sources.device, non_blocking=True)]
        if self.training and self.adapter.config.noise:
            sources = sources + self.noise * torch.randn_like(sources)
        mapped: Tensor = self.adapter(sources)
        return mapped


class AdapterTraining(PromptTuningModule[AdaptedPrompts]):
    """Trains adapters on the target's task loss; prompts stay as they are."""


def join_sources(
    sources: Sequence[PromptTable], *, missing: Missing = "mean"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put several sources side by side by user id.

    Returns user ids [n] (sorted), vectors [n, l, sum of d], and complete [n], True for users
    that every source has. A user whom some source lacks gets that source's mean prompt
    (missing="mean") or is left out (missing="drop").
    """
    if not sources:
        raise MigrationError("A migration needs at least one source prompt table; none came.")
    lengths = {source.tokens for source in sources}
    if len(lengths) > 1:
        raise MigrationError(
            f"The sources have soft prompts of {sorted(lengths)} tokens; only equal lengths can be joined."
        )
    everyone = np.array(sorted(set().union(*(source.user_ids.tolist() for source in sources))))
    rows = [source.rows_of(everyone) for source in sources]
    complete = np.all([row >= 0 for row in rows], axis=0)
    if not complete.any():
        raise MigrationError("No user is in every source; check that the sources share user ids.")
    parts = []
    for source, row in zip(sources, rows, strict=True):
        part = source.vectors[np.maximum(row, 0)].copy()
        part[row < 0] = source.vectors.mean(axis=0)
        parts.append(part)
    vectors = np.concatenate(parts, axis=2)
    if missing == "drop":
        return everyone[complete], vectors[complete], complete[complete]
    return everyone, vectors, complete


def train_migration(
    sources: Sequence[PromptTable],
    target: FrozenBackbone,
    dataset: Dataset,
    *,
    template: str,
    training: TrainingConfig,
    adapter: AdapterConfig | None = None,
    users: Sequence[str] | np.ndarray | None = None,
    missing: Missing = "mean",
    early_stopping_users: int = EARLY_STOPPING_USERS,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Migrated:
    """Train an adapter on `users` (None: all) and migrate every user of the sources.

    One source is the paper's single migration (and each hop of a chain), several are its
    aggregation. Only users whom every source and the data set have train the adapter. Where not
    all are chosen, validation rows of `judges` other users pick the epoch, since the adapter is
    made for users it never saw (of chosen ones where others are too few); else everybody's own
    do. The head starts from the first source's. Raises MigrationError, DataError, Cancelled.
    """
    user_ids, vectors, complete = join_sources(sources, missing=missing)
    usable = np.intersect1d(user_ids[complete], dataset.users)
    chosen = _training_users(usable, users)
    judging = _judges(chosen, usable, dataset, early_stopping_users, training.seed)
    seen = np.union1d(chosen, judging)
    own = dataset.for_users(seen)
    data = reader_for(target, own, template, seen, chosen, judging)
    # Both are sorted, and every user seen is among user_ids.
    inputs = vectors[np.searchsorted(user_ids, seen)]
    module = _start(data, own, sources, vectors, inputs, target, adapter, training.seed)
    torch.manual_seed(training.seed)
    result = train(
        module,
        len(data.train),
        training,
        lengths=data.train.lengths(data.reader),
        validate=module.validation,
        checkpoint_dir=checkpoint_dir,
        progress=progress,
        should_cancel=should_cancel,
        stage="training the adapter",
    )
    names = {"backbone": target.info.spec, "template": template, "dataset": dataset.name}
    counts = {"users_trained": len(chosen), "users_filled": int((~complete).sum())}
    mapped = apply_adapter(module.users.adapter, vectors)
    table = PromptTable(user_ids, mapped, meta=names | counts)
    return _finished(sources, table, module, result)


def _start(
    data: ReaderData,
    dataset: Dataset,
    sources: Sequence[PromptTable],
    everyone: np.ndarray,
    inputs: np.ndarray,
    target: FrozenBackbone,
    adapter: AdapterConfig | None,
    seed: int,
) -> AdapterTraining:
    """Adapters and head before the first step.

    inputs [n, l, d_in]: source prompts of the users who take part, of everyone's [m, l, d_in].
    """
    generator = torch.Generator().manual_seed(seed)
    widths = [source.width for source in sources]
    network = _network(everyone, widths, target, adapter, generator)
    head = make_head(data.task, data.train, generator, sources[0].head)
    items = _item_mapping(sources, dataset, target, adapter, generator)
    users = AdaptedPrompts(torch.from_numpy(inputs), network)
    return AdapterTraining(data, users, head, items).to(target.device)


def _finished(
    sources: Sequence[PromptTable],
    mapped: PromptTable,
    module: AdapterTraining,
    result: TrainingResult,
) -> Migrated:
    items, network = _mapped_items(sources, module.items), module.users.adapter
    table = dataclasses.replace(mapped, head=head_tensors(module.head), items=items)
    meta = {"d_in": network.d_in, "d_out": network.d_out, **network.config.to_dict()}
    item_adapter = None if module.items is None else adapter_tensors(module.items.adapter)
    flops = module.data.flops(table.read_tokens, result.examples, len(result.history))
    return Migrated(table, adapter_tensors(network), meta, result, flops, item_adapter)


def _item_mapping(
    sources: Sequence[PromptTable],
    dataset: Dataset,
    target: FrozenBackbone,
    config: AdapterConfig | None,
    generator: torch.Generator,
) -> AdaptedPrompts | None:
    """An adapter for the items' prompts, if a source has any."""
    ids = dataset.items["item_id"].to_numpy()
    vectors = join_items([source.items for source in sources], ids)
    if vectors is None:
        return None
    widths = [source.items.other.shape[1] for source in sources if source.items is not None]
    network = _network(vectors, widths, target, config, generator)
    return AdaptedPrompts(torch.from_numpy(vectors), network)


def _network(
    vectors: np.ndarray,
    widths: Sequence[int],
    target: FrozenBackbone,
    config: AdapterConfig | None,
    generator: torch.Generator,
) -> Adapter:
    """A new adapter for prompts [n, l, sum of widths]."""
    network = Adapter(vectors.shape[2], target.width, config, generator=generator)
    ratio = network.config.max_mean_to_std
    scaling = input_scaling(vectors, widths, ratio) if ratio else None
    if scaling is not None:
        network.set_input_scaling(*(torch.from_numpy(part) for part in scaling))
    if network.config.max_norm:
        network.set_max_norm(torch.tensor(network.config.max_norm * target.token_norm()))
    return network


def _mapped_items(
    sources: Sequence[PromptTable], mapping: AdaptedPrompts | None
) -> ItemPrompts | None:
    if mapping is None:
        return None
    own = [source.items for source in sources if source.items is not None]
    ids = np.unique(np.concatenate([items.item_ids for items in own]))
    vectors = join_items(own, ids)
    assert vectors is not None
    mapped = apply_adapter(mapping.adapter, vectors)
    return ItemPrompts(ids, mapped[:-1], mapped[-1])


def _training_users(usable: np.ndarray, users: Sequence[str] | np.ndarray | None) -> np.ndarray:
    if users is None:
        if not len(usable):
            raise MigrationError(
                "None of the source's users is in the data set; check the user ids."
            )
        return usable
    wanted = np.unique(np.asarray(users, dtype=str))
    lost = np.setdiff1d(wanted, usable)
    if len(lost):
        raise MigrationError(
            f"{len(lost)} of the {len(wanted)} chosen users are missing from a source or from the data set "
            f"(first: {str(lost[0])!r}); choose among the {len(usable)} that are in all."
        )
    return wanted


def _judges(
    chosen: np.ndarray, usable: np.ndarray, dataset: Dataset, count: int, seed: int
) -> np.ndarray:
    """Users who pick the epoch: others before chosen ones; all if there is nobody else."""
    others = np.setdiff1d(usable, chosen)
    if not len(others):
        return chosen
    checked = dataset.rows("validation")["user_id"].unique()
    generator = np.random.default_rng([seed, 1])
    parts = [generator.permutation(np.intersect1d(who, checked)) for who in (others, chosen)]
    return np.concatenate(parts)[:count]
