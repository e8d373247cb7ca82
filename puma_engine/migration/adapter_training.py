"""Migration: train an adapter on some users, then map every user's prompt to the target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.templates import Template
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.datasets import Dataset
from puma_engine.defaults import EARLY_STOPPING_USERS
from puma_engine.errors import MigrationError
from puma_engine.migration.adapter import Adapter, adapter_tensors, apply_adapter, input_scaling
from puma_engine.prompts.examples import reader_for
from puma_engine.prompts.item_prompts import ItemPrompts, join_items
from puma_engine.prompts.table import PromptTable
from puma_engine.prompts.tuning import (
    FitResult,
    PromptModule,
    PromptTuningModule,
    head_tensors,
    make_head,
    text_embedding,
)
from puma_engine.requests import Missing
from puma_engine.training.loop import Progress


@dataclass(frozen=True)
class MigrationResult(FitResult):
    """The migrated prompt table, the outcome of the training, and the adapter.

    adapter_tensors, adapter_meta: as `load_adapter` takes them; item_adapter: the tensors of the
    adapter of item prompts, or None.
    """

    adapter_tensors: dict[str, np.ndarray]
    adapter_meta: dict[str, Any]
    item_adapter: dict[str, np.ndarray] | None = None


class AdaptedPrompts(PromptModule):
    """Prompts that a trainable adapter maps from fixed source prompts [n, l, d_in]."""

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
        """Return mapped prompts [B, l, d_out] of row numbers [B]; in training, noise is added to the sources."""
        sources = self.sources[rows.to(self.sources.device, non_blocking=True)]
        if self.training and self.adapter.config.noise:
            sources = sources + self.noise * torch.randn_like(sources)
        return self.adapter(sources)


def train_migration(
    sources: Sequence[PromptTable],
    target: FrozenBackbone,
    dataset: Dataset,
    *,
    template: str | Template,
    training: TrainingConfig,
    adapter: AdapterConfig | None = None,
    users: Sequence[str] | np.ndarray | None = None,
    missing: Missing = "mean",
    early_stopping_users: int = EARLY_STOPPING_USERS,
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> MigrationResult:
    """Train an adapter on the target's task loss, then map the prompts of all source users.

    One source is the paper's single migration (and each hop of a chain); several are its
    aggregation. users: those who train the adapter (None: all users of the data set that every
    source has). early_stopping_users: how many other users choose the epoch by their validation
    rows, see `choose_early_stopping_users`; without others, the training users choose it. missing:
    see `join_sources`. Item prompts of the sources get an adapter of their own. The head starts
    from that of the first source with prompts of a model. The outcomes of dataset may be the source
    model's predictions, see `random_pairs.pair_dataset`. Raises MigrationError, DataError,
    Cancelled and CheckpointError.
    """
    user_ids, vectors, complete = join_sources(sources, missing=missing, everyone=dataset.users)
    available = np.intersect1d(user_ids[complete], dataset.users)
    trained = check_training_users(available, users)
    with_rows = dataset.rows("validation")["user_id"].unique()
    stopping = choose_early_stopping_users(
        trained, available, with_rows, early_stopping_users, training.seed
    )
    reader_users = np.union1d(trained, stopping)
    subset = dataset.for_users(reader_users)
    data = reader_for(target, subset, template, reader_users, trained, stopping)

    generator = torch.Generator().manual_seed(training.seed)
    source_parts = [(source.width, source.is_vectors) for source in sources]
    network = new_adapter(vectors, source_parts, target, adapter, generator)
    if network.config.output_start == "text":
        network.start_at(text_embedding(target, data.reader.encoded))
    start_head = next((source.head for source in sources if not source.is_vectors), None)
    head = make_head(data.task, data.train, generator, start_head)
    # user_ids are sorted, and every user of `reader_users` is among them.
    inputs = torch.from_numpy(vectors[np.searchsorted(user_ids, reader_users)])
    item_tables = [source.items for source in sources if source.items is not None]
    item_parts = [
        (source.items.other.shape[1], source.is_vectors)
        for source in sources
        if source.items is not None
    ]
    items, items_first = None, any(table.first for table in item_tables)
    if item_tables:
        item_vectors = join_items(item_tables, subset.items["item_id"].to_numpy())
        item_network = new_adapter(item_vectors, item_parts, target, adapter, generator)
        items = AdaptedPrompts(torch.from_numpy(item_vectors), item_network)
    users_prompts = AdaptedPrompts(inputs, network)
    module = PromptTuningModule(data, users_prompts, head, items, items_first=items_first)
    module = module.to(target.device)

    torch.manual_seed(training.seed)
    result = module.fit(
        training,
        checkpoint_dir=checkpoint_dir,
        progress=progress,
        should_cancel=should_cancel,
        stage="training the adapter",
    )

    item_prompts, item_adapter = None, None
    if items is not None:
        ids = np.unique(np.concatenate([table.item_ids for table in item_tables]))
        mapped = apply_adapter(items.adapter, join_items(item_tables, ids))
        item_prompts = ItemPrompts(ids, mapped[:-1], mapped[-1], items_first)
        item_adapter = adapter_tensors(items.adapter)
    names = {"backbone": target.info.spec, "dataset": dataset.name}
    names |= data.reader.template.to_config()
    counts = {"users_trained": len(trained), "users_filled": int((~complete).sum())}
    mapped = apply_adapter(network, vectors)
    table = PromptTable(user_ids, mapped, head_tensors(head), names | counts, item_prompts)
    return MigrationResult(
        table,
        result,
        flops=data.flops(table.read_tokens, result.examples, len(result.history)),
        adapter_tensors=adapter_tensors(network),
        adapter_meta={"d_in": network.d_in, "d_out": network.d_out, **network.config.to_dict()},
        item_adapter=item_adapter,
    )


def join_sources(
    sources: Sequence[PromptTable],
    *,
    missing: Missing = "mean",
    everyone: Sequence[str] | np.ndarray = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenate the prompts of several sources along the width, joined by user id.

    Returns user ids [n] (sorted), vectors [n, l, sum of d], and complete [n], True for users that
    every source has. A user whom a source lacks gets that source's mean prompt (missing="mean") or
    is left out (missing="drop"). everyone: the users to map where all sources are vectors, which
    may lack users. Raises MigrationError without sources, for sources of different prompt lengths,
    and if no user is in all of them.
    """
    if not sources:
        raise MigrationError("A migration needs at least one source prompt table; none is given.")
    lengths = {source.tokens for source in sources}
    if len(lengths) > 1:
        raise MigrationError(
            f"The sources have soft prompts of {sorted(lengths)} tokens; only equal lengths can be joined."
        )
    named_users = set().union(*(source.user_ids.tolist() for source in sources))
    if all(source.is_vectors for source in sources):
        named_users |= set(np.asarray(everyone, dtype=str).tolist())
    users = np.array(sorted(named_users))
    rows = [source.rows_of(users) for source in sources]
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
        return users[complete], vectors[complete], complete[complete]
    return users, vectors, complete


def choose_early_stopping_users(
    trained: np.ndarray, available: np.ndarray, with_rows: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Draw the users whose validation rows choose the epoch, [at most count].

    with_rows: users who have validation rows. An adapter must work for users that it was not
    trained on, so users outside `trained` are drawn first, and trained users only if these are too
    few. If all available users are trained, all of them choose the epoch.
    """
    untrained = np.setdiff1d(available, trained)
    if not len(untrained):
        return trained
    generator = np.random.default_rng([seed, 1])
    parts = [generator.permutation(np.intersect1d(ids, with_rows)) for ids in (untrained, trained)]
    return np.concatenate(parts)[:count]


def new_adapter(
    vectors: np.ndarray,
    parts: Sequence[tuple[int, bool]],
    target: FrozenBackbone,
    config: AdapterConfig | None,
    generator: torch.Generator,
) -> Adapter:
    """Draw an adapter, and set its input scaling and norm bound from prompts and target.

    vectors: [n, l, sum of widths], sources side by side; parts: for each source its width, and
    whether it holds vectors, whose dimensions may have any units.
    """
    network = Adapter(vectors.shape[2], target.width, config, generator=generator)
    widths, standardised = zip(*parts, strict=True)
    scaling = input_scaling(vectors, widths, network.config.max_mean_to_std, standardised)
    if scaling is not None:
        network.input_scale, network.input_bias = map(torch.from_numpy, scaling)
    if network.config.max_norm:
        network.max_norm = torch.tensor(network.config.max_norm * target.token_norm())
    return network


def check_training_users(
    available: np.ndarray, users: Sequence[str] | np.ndarray | None
) -> np.ndarray:
    """Return the sorted users who train: the given ones, or all that are available.

    Raises MigrationError if there are none, or if a given user is not available.
    """
    if users is None:
        if not len(available):
            raise MigrationError(
                "None of the source's users is in the data set; check the user ids."
            )
        return available
    chosen = np.unique(np.asarray(users, dtype=str))
    missing = np.setdiff1d(chosen, available)
    if len(missing):
        raise MigrationError(
            f"{len(missing)} of the {len(chosen)} chosen users are missing from a source or from the data set "
            f"(first: {str(missing[0])!r}); choose among the {len(available)} that are in all."
        )
    return chosen
