"""Candidate hyperparameters that studies try on the validation rows of the first seed.

Settings that a candidate does not name have their defaults (`puma_engine.defaults`). The empty
candidate is the default, with a batch size that depends on the number of users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from puma_engine.defaults import fit_defaults, migration_defaults
from puma_engine.zoo import ZOO

Candidate = dict[str, Any]
# Defaults for all users of goodbooks, which candidates vary.
_FIT = fit_defaults("rating", 10_206)
_MIGRATION, _NETWORK = migration_defaults("rating", 10_206)


def _training(
    rate: float, batch: int, decay: float = _MIGRATION.weight_decay, epochs: int = _FIT.epochs
) -> Candidate:
    """Return training settings with the default patience, as a candidate."""
    training = {"learning_rate": rate, "batch_size": batch, "weight_decay": decay, "epochs": epochs}
    return {"training": training | {"patience": _FIT.patience}}


def _adapter(rate: float, batch: int, noise: float, epochs: int = _MIGRATION.epochs) -> Candidate:
    """Return training settings and a noise of the default adapter, as a candidate."""
    adapter = {"hidden": _NETWORK.hidden, "noise": noise}
    return _training(rate, batch, epochs=epochs) | {"adapter": adapter}


def _drawn(candidate: Candidate, dropout: float = _NETWORK.dropout) -> Candidate:
    """Return a candidate whose adapter starts with random weights instead of at the text."""
    changes = {"output_start": "random", "dropout": dropout}
    return candidate | {"adapter": candidate["adapter"] | changes}


def _without_early_stopping(*candidates: Candidate) -> list[Candidate]:
    """Return the candidates with patience 0.

    The validation loss of clicks may not improve for several epochs before it falls.
    """
    return [
        candidate | {"training": candidate["training"] | {"patience": 0}}
        for candidate in candidates
    ]


@dataclass(frozen=True)
class Grids:
    """The candidates of every training of a study.

    source: source prompts. prompts: full retraining. adapter, small_adapter: migrations trained on all
    users, and on a few. refining: fitting migrated prompts further. item_prompts: fitting and
    refining with item prompts beside the users'. source_migration: the migration by which
    candidates of source prompts are compared. retraining: learning rate and batch size of the
    retraining that `table3` stops early.
    """

    source: list[Candidate]
    prompts: list[Candidate]
    adapter: list[Candidate]
    small_adapter: list[Candidate]
    refining: list[Candidate]
    item_prompts: list[Candidate]
    source_migration: Candidate
    retraining: tuple[float, int]

    def retraining_for(self, epochs: int) -> Candidate:
        """Return settings of full retraining for a number of epochs."""
        return _training(*self.retraining, _FIT.weight_decay, epochs)


_PROMPTS = [
    _training(1.5e-2, 1024, 0.1),
    _training(1.5e-2, 1024, 1.0),
    _training(3e-2, 1024, 0.3),
    _training(1e-2, 256, 1.0),
    _training(1.5e-2, 1024, 0.3),
    _training(1e-2, 256, 0.3),
]
_ADAPTER = [
    _adapter(1e-3, 256, 0.1, epochs=2),
    _adapter(3e-4, 256, 0.1),
    _adapter(1e-3, 256, 0.1),
    _adapter(2e-3, 1024, 0.1),
    _adapter(1e-3, 256, 0.3),
]
_ITEM_PROMPTS = [
    _training(1.5e-2, 512, 3.0, 12),
    _training(1.5e-2, 256, 2.0),
    _training(1.5e-2, 1024, 1.0),
    _training(1.5e-2, 512, 1.0),
    _training(1.5e-2, 1024, 1.0, 6),
]
# On all users of goodbooks, retraining and adapters were still best in the last of ten epochs.
_EPOCHS_OF_MANY = 20
RATINGS = Grids(
    source=_PROMPTS,
    prompts=[_training(1e-2, 256, 1.0, _EPOCHS_OF_MANY), *_PROMPTS],
    adapter=[
        _adapter(2e-3, 1024, 0.1, epochs=_EPOCHS_OF_MANY),
        _adapter(1e-3, 512, 0.1, epochs=_EPOCHS_OF_MANY),
        *_ADAPTER,
    ],
    small_adapter=[
        _adapter(1e-3, 256, 0.3, epochs=6),
        _adapter(1e-3, 256, 0.1, epochs=12),
        _adapter(5e-4, 128, 0.3, epochs=12),
        _adapter(2e-4, 64, 0.3, epochs=12),
        {},
    ],
    refining=[
        _training(3e-3, 1024, 0.1, 6),
        _training(1e-2, 256, 0.3, 6),
        _training(1.5e-2, 1024, 0.3),
        _training(1.5e-2, 1024, 0.15),
        _training(6e-3, 1024, 0.1, 3),
        {},
    ],
    item_prompts=_ITEM_PROMPTS,
    source_migration=_ADAPTER[0],
    retraining=(_FIT.learning_rate, _FIT.batch_size),
)
# For models that were not pre-trained on the templates, such as SmolLM2, adapters with random initial weights
# were better on validation rows. On a GPU a step of 1,024 rows takes 1.3 times as long as one of 256. Candidates
# cost more than with zoo models, so fewer are tried.
OTHER_MODELS = Grids(
    source=[_PROMPTS[2], _PROMPTS[4], _PROMPTS[5]],
    prompts=[
        _training(1.5e-2, 1024, 0.3),
        _training(3e-2, 1024, 0.3),
        _training(1.5e-2, 1024, 1.0),
        {},
    ],
    adapter=[
        _adapter(2e-3, 1024, 0.1, epochs=20),
        _adapter(1e-3, 1024, 0.1),
        _drawn(_adapter(2e-3, 1024, 0.1)),
        _drawn(_adapter(1e-3, 1024, 0.1, epochs=20)),
        _training(2e-3, 1024, 0.3) | _drawn({"adapter": {"hidden": 1024, "noise": 0.3}}, 0.3),
        _adapter(1e-3, 256, 0.1, epochs=2),
        _drawn(_adapter(1e-3, 256, 0.1, epochs=2)),
    ],
    small_adapter=[
        _drawn(_adapter(5e-4, 128, 0.3, epochs=12)),
        _training(5e-4, 128, 0.3, epochs=12)
        | _drawn({"adapter": {"hidden": 1024, "noise": 0.3}}, 0.3),
        _adapter(1e-3, 256, 0.1, epochs=20),
        _adapter(1e-3, 64, 0.3, epochs=12),
        {},
    ],
    refining=[
        _training(1e-2, 1024, 0.3, 6),
        _training(1.5e-2, 1024, 0.3),
        {},
    ],
    item_prompts=[
        _training(1.5e-2, 1024, 3.0, 12),
        _training(1.5e-2, 1024, 1.0),
    ],
    source_migration=_drawn(_adapter(2e-3, 1024, 0.1, epochs=4)),
    retraining=(_FIT.learning_rate, _FIT.batch_size),
)
# Clicks carry less information than ratings, so adapters need more epochs. With large batches
# the source prompts of some seeds learn nothing.
_CLICK_PROMPTS = [
    *_without_early_stopping(
        _training(7e-3, 256, 0.0, 20), _training(7e-3, 256, 0.3, 20), *_PROMPTS
    ),
    {},
]
CLICKS = Grids(
    source=_CLICK_PROMPTS,
    prompts=_CLICK_PROMPTS,
    adapter=[
        *_without_early_stopping(
            _adapter(1e-4, 64, 0.3, epochs=25),
            _adapter(1e-3, 256, 0.2, epochs=25),
            _adapter(1e-3, 256, 0.3, epochs=25),
            _adapter(3e-4, 256, 0.3, epochs=25),
        ),
        {},
    ],
    small_adapter=[
        *_without_early_stopping(
            _adapter(1e-3, 256, 0.3, epochs=25),
            _adapter(3e-4, 128, 0.3, epochs=25),
            _adapter(1e-4, 64, 0.3, epochs=25),
            _adapter(1e-4, 32, 0.3, epochs=25),
        ),
        {},
    ],
    refining=[
        *_without_early_stopping(
            _training(7e-3, 256, 0.3, 20),
            _training(7e-3, 256, 0.0),
            _training(1.5e-2, 256, 0.3),
            _training(7e-3, 256, 0.3),
            _training(3e-3, 256, 0.1),
        ),
        {},
    ],
    item_prompts=_without_early_stopping(*_ITEM_PROMPTS),
    source_migration={},
    retraining=(7e-3, 256),
)


def grids_for(task: str, target: str) -> Grids:
    """Return the candidates for a task, "rating" or "click", and a target model."""
    if task == "click":
        return CLICKS
    return RATINGS if target in ZOO else OTHER_MODELS


# Random prompts are a control: only the rating head is trained.
RANDOM_PROMPTS = _training(1e-2, 256, 0.0, epochs=3)
