"""All default hyperparameters: the value of every setting that a request leaves open.

    stage        who trains      epochs  batch     learning rate  decay  clip  patience  adapter
    fit          all users       10      64-1024   1e-2           0.3    1.0   3
    refine       all or some     3       64-1024   3e-3           0.1    1.0   0
    migrate      all users       10      32-256    1e-3           0.01   1.0   3         mean <= 3 std
    migrate      few users       12 / 6  32-256    5e-4 / 2e-4    0.01   0.1   4         mean <= 1 std

The rows are for ratings; the functions below change them for clicks and item prompts, with reasons.
They were chosen on validation rows of the shipped data sets with zoo models of up to some 100
million parameters; docs/method.md has the paper's settings, for models of 3 billion. Models that
were not pre-trained on our templates have the same defaults; `studies.grids` has candidates for
them. Constants that begin with `DEMO` are only for `puma demo`.
"""

from dataclasses import replace

from puma_engine.config import AdapterConfig, TrainingConfig

# Below this share of the users, the defaults for few users are used.
FEW_USERS_SHARE = 0.25
# If some of the users train an adapter, at most so many others decide on early stopping.
EARLY_STOPPING_USERS = 200

# The paper's strategy, whose clusters a map can show.
PAPER_STRATEGY = "kmeans-variance"
# By task. With 1 % and 3 % of the users, facility location was ahead of random users on ratings, and its intervals
# were among the narrowest (docs/method.md). On clicks it was not, so their default is the paper's.
DEFAULT_STRATEGIES = {"rating": "facility", "click": PAPER_STRATEGY}

# Groups of a selection as in the paper: clusters of k-means, strata of each, and minimum users of a cluster.
CLUSTERS, STRATA, MIN_CLUSTER = 15, 5, 50

# Prompt last needs a fourth of the arithmetic of item first. On ratings migrations are best in it. On clicks
# migrations are alike in both orders, and full retraining is better item first (docs/method.md).
DEFAULT_TEMPLATES = {"rating": "rating-prompt-last", "click": "click-item-first"}

# Learning from predictions: random items for each user, about as many as users of the shipped data sets
# have train rows. On 300 users of movietweetings 12 and 24 were within 0.6 % of each other.
PAIRS_PER_USER = 24

# Number of anchor items, see `puma_engine.datasets.anchor_items`.
ANCHOR_ITEMS = 32

# A migration that loses at most this share of the full retraining's metric counts as equivalent.
MARGIN = 0.01

# Largest size in MiB of an archive of a published comparison, and of its unpacked content when it is added.
# Archives of full data sets have 6 to 12.
PUBLISHED_MIB = 12.0
ADDED_MIB = 1024.0


def fit_defaults(task: str, users: int, *, item_tokens: int = 0) -> TrainingConfig:
    """Return the settings for fitting the prompts of `users` users, and of items if item_tokens > 0.

    task: rating or click.
    """
    training = TrainingConfig(
        epochs=10,
        batch_size=_batch(users // 6, 64, 1024),
        learning_rate=1e-2,
        # Item prompts double the number of parameters, so they need stronger regularisation.
        weight_decay=1.0 if item_tokens else 0.3,
        patience=3,
    )
    if task == "click":
        # With clicks the validation value hardly improves for some epochs, and then much. Early stopping would
        # end before, and with larger steps some backbones do not learn at all.
        training = replace(training, patience=0)
        return training if item_tokens else replace(training, learning_rate=5e-3)
    return training


def refine_defaults(task: str, users: int, *, item_tokens: int = 0) -> TrainingConfig:
    """Return the settings for refining the migrated prompts of `users` users.

    Migrated prompts start near their optimum, so small steps and weak decay suffice.
    """
    training = fit_defaults(task, users, item_tokens=item_tokens)
    if item_tokens:
        return replace(training, epochs=6)
    training = replace(training, epochs=3, learning_rate=3e-3, weight_decay=0.1, patience=0)
    if task == "click":  # clicks need many steps
        batch = min(training.batch_size, 256)
        return replace(training, epochs=6, learning_rate=6e-3, batch_size=batch)
    return training


def migration_defaults(
    task: str, users: int, trained: int | None = None
) -> tuple[TrainingConfig, AdapterConfig]:
    """Return the settings of an adapter's training and of its network.

    users: number of users who could train it. trained: number of users who do (None: all). The
    settings for few users are used below the share FEW_USERS_SHARE.
    """
    trained = users if trained is None else trained
    by_few_users = trained < FEW_USERS_SHARE * users
    training = (
        _few_users_training(task, trained) if by_few_users else _all_users_training(task, trained)
    )
    # Noise keeps the adapter from memorising users. Differences between users are amplified if they are
    # small compared with the mean prompt, as with clicks, and always with few users. With a random start,
    # an adapter that few users train predicts only each user's mean for some seeds.
    limit = 1.0 if by_few_users else 3.0
    adapter = AdapterConfig(hidden=1024, noise=0.3, max_mean_to_std=limit, output_start="text")
    if task == "click":
        # Gradients of clicks are weak, so without a bound mapped prompts grow long along a common direction
        # before they learn differences between users.
        adapter = replace(adapter, max_mean_to_std=1.0, max_norm=1.0)
    return training, adapter


def held_out_pairs(pairs: int) -> int:
    """Return the number of validation pairs of each user, in addition to `pairs` to learn from."""
    return max(1, round(pairs / 8))


def _all_users_training(task: str, users: int) -> TrainingConfig:
    training = TrainingConfig(
        epochs=10,
        batch_size=_batch(users // 6, 32, 256),
        learning_rate=1e-3,
        weight_decay=0.01,
        patience=3,
    )
    if task == "click":
        return replace(training, learning_rate=1e-4, grad_clip=0.1, patience=0)
    return training


def _few_users_training(task: str, users: int) -> TrainingConfig:
    """Return settings with small steps.

    With large steps mapped prompts sometimes grow until the backbone predicts the same for all
    users, and training does not recover. Below 100 users even smaller steps were better, with 102
    no longer. From 300 users on, an epoch has so many steps that half as many epochs suffice.
    """
    training = TrainingConfig(
        epochs=12 if users < 300 else 6,
        batch_size=_batch(users, 32, 256),
        learning_rate=2e-4 if users < 100 else 5e-4,
        weight_decay=0.01,
        grad_clip=0.1,
        patience=4,
    )
    if task == "click":
        return replace(
            training,
            epochs=2 * training.epochs,
            batch_size=_batch(users // 3, 32, 256),
            learning_rate=1e-4,
            patience=0,
        )
    return training


def _batch(users: int, smallest: int, largest: int) -> int:
    """Return a power of two as batch size that leaves enough steps in an epoch, for users with about 25 rows."""
    return min(largest, max(smallest, 1 << max(users, 1).bit_length() - 1))


# `puma demo`: the best settings on validation rows among candidates that fit its time. All epochs are run,
# and the best epoch on validation rows is used. Adapters are keyed by the share of users who train them.
DEMO_USERS, DEMO_SEEDS = 600, (0, 1)
DEMO_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
# The share whose migration is refined and compared with random users, and the share of refined users.
DEMO_SHARE, DEMO_REFINED = 0.1, 0.1
_DEMO_FEW = TrainingConfig(
    epochs=12, batch_size=32, learning_rate=5e-4, weight_decay=0.01, grad_clip=0.1, patience=0
)
_DEMO_MANY = TrainingConfig(
    epochs=3, batch_size=128, learning_rate=1e-3, weight_decay=0.01, patience=0
)
DEMO_TRAINING = {
    "source": TrainingConfig(
        epochs=8, batch_size=128, learning_rate=1e-2, weight_decay=0.3, patience=0
    ),
    "retrained": TrainingConfig(
        epochs=6, batch_size=256, learning_rate=2e-2, weight_decay=1.0, patience=0
    ),
    "random": TrainingConfig(epochs=2, batch_size=256, learning_rate=1e-2, patience=0),
    "0.01": replace(_DEMO_FEW, epochs=8, learning_rate=1e-3),
    "0.03": replace(_DEMO_FEW, learning_rate=1e-3),
    "0.1": _DEMO_FEW,
    "0.3": replace(_DEMO_MANY, epochs=6, batch_size=64),
    "1": _DEMO_MANY,
}
# Prompts start as those of the runs that ship (data/demo/README.md).
DEMO_PROMPT_START = "shared"
_DEMO_NETWORK = AdapterConfig(hidden=512, noise=0.1, max_mean_to_std=3.0, output_start="random")
DEMO_ADAPTERS = {
    share: replace(_DEMO_NETWORK, max_mean_to_std=1.0) for share in ("0.01", "0.03", "0.1")
} | {"0.3": _DEMO_NETWORK, "1": _DEMO_NETWORK}

# `puma demo --real`: a pre-trained model on few users. All epochs are run, so that their time is known
# before; the best epoch on validation rows is used.
REAL_DEMO_USERS, REAL_DEMO_SHARE = 60, 0.2
REAL_DEMO_ADAPTERS = {"few users": DEMO_ADAPTERS["0.1"], "all users": DEMO_ADAPTERS["1"]}
REAL_DEMO_TRAINING = {
    "source": DEMO_TRAINING["source"],
    "retrained": TrainingConfig(
        epochs=5, batch_size=64, learning_rate=1e-2, weight_decay=0.3, patience=0
    ),
    "random": TrainingConfig(epochs=2, batch_size=64, learning_rate=1e-2, patience=0),
    "all users": TrainingConfig(
        epochs=4, batch_size=32, learning_rate=5e-4, weight_decay=0.01, patience=0
    ),
    "few users": TrainingConfig(
        epochs=4, batch_size=32, learning_rate=5e-4, weight_decay=0.01, grad_clip=0.1, patience=0
    ),
}
