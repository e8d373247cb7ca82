"""Settings that suit the zoo and data sets of its size.

The prompts' and the adapter's are those that `benchmarks/goodbooks_migration.py` chose on
validation rows. The defaults in `config` are not the paper's for the training runs, since its
3-billion-parameter models need other learning rates; `PAPER_PROMPTS` and `PAPER_ADAPTER` are.
"""

from dataclasses import replace

from puma_engine.config import AdapterConfig, TrainingConfig

PAPER_PROMPTS = TrainingConfig(epochs=15, batch_size=128, learning_rate=5e-4)
PAPER_ADAPTER = TrainingConfig(epochs=4, batch_size=32, learning_rate=1e-4)

PROMPT_TRAINING = TrainingConfig(
    epochs=10, batch_size=1024, learning_rate=1.5e-2, weight_decay=0.3, patience=3
)
# Items' prompts bring as many numbers again, so more has to be held back.
ITEM_TRAINING = replace(PROMPT_TRAINING, weight_decay=1.0)
ITEM_REFINING = replace(ITEM_TRAINING, epochs=6)
# Migrated prompts are near already: a short schedule that ends where it began to turn.
REFINING = TrainingConfig(
    epochs=2, batch_size=1024, learning_rate=7e-3, weight_decay=0.3, patience=0
)
ADAPTER = AdapterConfig(hidden=1024, noise=0.1)
ADAPTER_TRAINING = TrainingConfig(
    epochs=10, batch_size=2048, learning_rate=1e-3, weight_decay=0.01, patience=3
)
# Few users: noise keeps the adapter from learning each of them by heart.
SMALL_ADAPTER = AdapterConfig(hidden=1024, noise=0.3)
SMALL_ADAPTER_TRAINING = TrainingConfig(
    epochs=12, batch_size=64, learning_rate=1e-3, weight_decay=0.01, patience=4
)
SMALL_BATCHES = (32, 512)
# From here on an epoch has steps enough that half as many epochs do.
MANY_USERS = 300


def small_adapter_training(users: int) -> TrainingConfig:
    """Settings for an adapter trained on few users of some 25 rows each.

    The batch, a power of two, leaves some 25 steps an epoch: with fewer an adapter is still
    far from where it is going when its epochs are over.
    """
    least, most = SMALL_BATCHES
    batch = min(most, max(least, 1 << max(users, 1).bit_length() - 1))
    epochs = SMALL_ADAPTER_TRAINING.epochs // (1 if users < MANY_USERS else 2)
    return replace(SMALL_ADAPTER_TRAINING, batch_size=batch, epochs=epochs)


# Of the users chosen among others, this share picks the epoch and trains nothing.
HELD_OUT = 0.15

# A migration that loses at most this share of the full retraining's value is as good.
MARGIN = 0.01
