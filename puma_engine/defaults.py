"""Settings that suit the zoo and data sets of its size.

The prompts' and the adapter's are near those that `puma study table2` chose on validation rows of
10,206 users, with smaller batches for fewer users. The defaults in `config` are not the paper's for the training runs, since its
3-billion-parameter models need other learning rates; `PAPER_PROMPTS` and `PAPER_ADAPTER` are.
"""

from dataclasses import replace

from puma_engine.config import AdapterConfig, TrainingConfig

PAPER_PROMPTS = TrainingConfig(epochs=15, batch_size=128, learning_rate=5e-4)
PAPER_ADAPTER = TrainingConfig(epochs=4, batch_size=32, learning_rate=1e-4)

PROMPT_TRAINING = TrainingConfig(
    epochs=10, batch_size=1024, learning_rate=1.5e-2, weight_decay=0.3, patience=3
)
# Migrated prompts are near already: short steps reach, and little must hold them where they start.
REFINING = replace(PROMPT_TRAINING, epochs=3, learning_rate=3e-3, weight_decay=0.1, patience=0)
CLICK_REFINING = replace(REFINING, epochs=6, learning_rate=6e-3)
# From clicks next to nothing is learned for some epochs, and then much. With longer steps some backbones
# do not get there within their epochs, and whoever loses patience in between ends at chance, too.
CLICK_RATE, CLICK_ADAPTER_RATE, CLICK_PATIENCE = 5e-3, 1e-4, 0
# Refining clicks takes many steps.
CLICK_BATCH = 256
# Items' prompts bring as many numbers again, so more has to be held back, for longer.
ITEM_DECAY, ITEM_REFINING_EPOCHS = 1.0, 6
# Noise keeps the adapter from learning each user by heart.
# What sets users apart is brought out where it is next to nothing beside what they share, as in
# prompts of clicks; with few users always.
ADAPTER = AdapterConfig(hidden=1024, noise=0.3, max_mean_to_std=3.0)
SMALL_ADAPTER = replace(ADAPTER, max_mean_to_std=1.0)
# Clicks pull so weakly that mapped prompts would grow long before they say anything: a backbone then
# sees no more than their common direction, and some backbones learn nothing.
CLICK_ADAPTER = replace(SMALL_ADAPTER, max_norm=1.0)
ADAPTER_TRAINING = TrainingConfig(
    epochs=10, batch_size=256, learning_rate=1e-3, weight_decay=0.01, patience=3
)
FEW_EPOCHS, FEW_BATCH = 12, 256
# Longer steps now and then lead astray with few users: mapped prompts grow until the backbone
# answers the same to all, and training does not come back from there. Below a hundred users still
# shorter steps were better, with 102 no more.
FEW_RATE, FEWEST_RATE, FEW_CLIP = 5e-4, 2e-4, 0.1
FEWEST_USERS = 100
# From here on an epoch has steps enough that half as many epochs do.
MANY_USERS = 300


def prompt_training(users: int, task: str = "rating", *, items: bool = False) -> TrainingConfig:
    """Settings for fitting prompts of so many users of some 25 rows each, and items' with them.

    As everywhere here, the batch is a power of two that leaves steps enough an epoch: with fewer,
    what is trained is still far from where it is going when its epochs are over.
    """
    decay = ITEM_DECAY if items else PROMPT_TRAINING.weight_decay
    usual = replace(
        PROMPT_TRAINING, batch_size=_batch(users * 2 // 3, 64, 1024), weight_decay=decay
    )
    if task != "click":
        return usual
    rate = usual.learning_rate if items else CLICK_RATE
    return replace(usual, learning_rate=rate, patience=CLICK_PATIENCE)


def refining(users: int, task: str = "rating", *, items: bool = False) -> TrainingConfig:
    """Settings for fitting migrated prompts of so many users further, or items' beside them."""
    usual = prompt_training(users, task, items=items)
    if items:
        return replace(usual, epochs=ITEM_REFINING_EPOCHS)
    if task == "click":
        return replace(CLICK_REFINING, batch_size=min(usual.batch_size, CLICK_BATCH))
    return replace(REFINING, batch_size=usual.batch_size)


def adapter_training(users: int, task: str = "rating") -> TrainingConfig:
    """Settings for an adapter that is trained on all users, so many."""
    usual = replace(ADAPTER_TRAINING, batch_size=_batch(users // 6, 32, 256))
    if task != "click":
        return usual
    return replace(
        usual, learning_rate=CLICK_ADAPTER_RATE, grad_clip=FEW_CLIP, patience=CLICK_PATIENCE
    )


def adapter_shape(task: str = "rating", *, few: bool = False) -> AdapterConfig:
    """The network of an adapter that is trained on all users, or on a few and serves the others."""
    if task == "click":
        return CLICK_ADAPTER
    return SMALL_ADAPTER if few else ADAPTER


def small_adapter_training(users: int, task: str = "rating") -> TrainingConfig:
    """Settings for an adapter that is trained on a few users, so many, and serves the others."""
    usual = replace(
        ADAPTER_TRAINING,
        epochs=FEW_EPOCHS // (1 if users < MANY_USERS else 2),
        batch_size=_batch(users, 32, FEW_BATCH),
        learning_rate=FEWEST_RATE if users < FEWEST_USERS else FEW_RATE,
        grad_clip=FEW_CLIP,
        patience=4,
    )
    if task != "click":
        return usual
    return replace(
        usual,
        epochs=2 * usual.epochs,
        batch_size=_batch(users // 3, 32, FEW_BATCH),
        learning_rate=CLICK_ADAPTER_RATE,
        patience=CLICK_PATIENCE,
    )


def _batch(users: int, least: int, most: int) -> int:
    return min(most, max(least, 1 << max(users, 1).bit_length() - 1))


# Where an adapter is trained on some users, so many others pick the epoch.
EARLY_STOPPING_USERS = 200

# Its clusters can be shown on a map.
PAPER_STRATEGY = "kmeans-variance"
# By the kind of outcome: on both rating sets facility location beat random users by most, with tens of
# users; on clicks none was told from random users, so they take the paper's (docs/results.md).
DEFAULT_STRATEGIES = {"rating": "facility", "click": PAPER_STRATEGY}

# A migration that loses at most this share of the full retraining's value is as good.
MARGIN = 0.01
