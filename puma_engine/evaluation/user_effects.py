"""Effects on users: how much worse a method is for each user than another, with probabilities.

A user has few held-out rows, so the plain difference of a user's losses is mostly noise. Each
difference is therefore shrunk by empirical Bayes (Efron, "Large-Scale Inference", 2010): the prior
of true differences over users is estimated on a grid by expectation maximisation (Laird, JASA 1978)
with a smoothing step (EMS: Silverman et al., JRSS B 1990), and noise is normal. A check needs no
such model: users who are worst on one half of their rows are measured on the other half.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from puma_engine.errors import DataError
from puma_engine.evaluation.metrics import Interval

# A user regresses if the true loss grows by more than this share of the reference's mean loss.
USER_MARGIN = 0.05
SURE = 0.9
LIKELY = 0.75
# Degrees of certainty that a user regresses, with the lowest probability of each. Between 1 - LIKELY
# and LIKELY the rows of the user are too few for a statement.
CERTAINTIES = {"surely": SURE, "likely": LIKELY, "unknown": 1 - LIKELY, "unlikely": 0.0}
WORST_SHARE = 0.1
# Weight of the pooled variance in each user's row variance, in rows.
PRIOR_ROWS = 4.0
# Number of points of the prior's grid, and the largest number of users that it is fitted on.
GRID = 101
MAX_FITTED_USERS = 5000
EM_STEPS = 100
CHUNK = 20_000
# Width of the smoothing between EM steps, in standard deviations of the noise.
SMOOTHING = 0.15
QUANTILES = 5
# Sizes of what a comparison stores: a sample of users, those most likely to regress, a histogram.
MAX_SAMPLED = 20_000
LISTED_USERS = 200
BINS = 60
GROUPED_BY = ("variance", "train_rows")


@dataclass(frozen=True)
class UserEffects:
    """A method against a reference, user by user.

    frame: user_id, n (rows), reference and loss (mean row loss of each), difference (loss minus
    reference; above 0 the user is worse off), expected (posterior mean of the true difference) and
    probability (that the true difference is above the threshold); sorted by probability, highest
    first. A comparison stores only the rows of users who likely regress; users and rows are the
    numbers of all. threshold: in units of the loss. spread: standard deviation of true differences
    between users. repeated: mean difference on one half of the rows of the users who are worst on
    the other half; None with fewer than 20 users of 2 rows or more.
    """

    frame: pd.DataFrame
    threshold: float
    spread: float
    repeated: Interval | None
    users: int
    rows: int

    def worse(self, probability: float = SURE) -> pd.DataFrame:
        """Return the users who regress with at least this probability, LIKELY or more."""
        return self.frame[self.frame["probability"] >= probability]


def certainties(probability: np.ndarray) -> np.ndarray:
    """Return the position in CERTAINTIES of each probability to regress, [n] int64."""
    lowest = np.array([*CERTAINTIES.values()])[::-1]
    return len(lowest) - np.searchsorted(lowest, probability, side="right")


def per_user_losses(user: np.ndarray, reference: np.ndarray, loss: np.ndarray) -> pd.DataFrame:
    """Return one row for each user from row losses [n]: user_id, n, reference, loss, sd, half.

    sd: standard deviation of the row differences (NaN for one row); half: mean difference
    over every second row of the user, the first included.
    """
    codes, names = pd.factorize(np.asarray(user), sort=True)
    difference = loss - reference
    n = np.bincount(codes)
    mean = np.bincount(codes, weights=difference) / n
    squares = np.bincount(codes, weights=(difference - mean[codes]) ** 2)
    even = pd.Series(codes).groupby(codes).cumcount().to_numpy() % 2 == 0
    half = np.bincount(codes, weights=np.where(even, difference, 0.0)) / np.bincount(codes[even])
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt(squares / (n - 1))
    return pd.DataFrame(
        {
            "user_id": np.asarray(names, dtype=str),
            "n": n,
            "reference": np.bincount(codes, weights=reference) / n,
            "loss": np.bincount(codes, weights=loss) / n,
            "sd": np.where(n > 1, sd, np.nan),
            "half": half,
        }
    )


def user_effects(users: pd.DataFrame) -> UserEffects:
    """Estimate the effect on each user from user_id, n, reference, loss, sd and half.

    users: the table of `per_user_losses`. Raises DataError for an empty table.
    """
    if users.empty:
        raise DataError("There are no users to compare; the two methods share no held-out row.")
    n = users["n"].to_numpy(np.float64)
    reference = users["reference"].to_numpy(np.float64)
    difference = users["loss"].to_numpy(np.float64) - reference
    # Variance of each user's mean difference; row variances are shrunk to the pooled one. With one
    # row for each user, noise and true differences cannot be told apart, and all counts as noise.
    freedom = np.maximum(n - 1, 0)
    sd = np.nan_to_num(users["sd"].to_numpy(np.float64))
    squares = np.where(freedom > 0, sd**2 * freedom, 0.0)
    pooled = squares.sum() / freedom.sum() if freedom.sum() else float(difference.var())
    noise = (PRIOR_ROWS * pooled + squares) / (PRIOR_ROWS + freedom) / n
    threshold = USER_MARGIN * float(np.average(reference, weights=n))
    grid, prior = _fit_prior(difference, noise)
    expected, probability = np.empty(len(n)), np.empty(len(n))
    for start in range(0, len(n), CHUNK):
        part = slice(start, start + CHUNK)
        posterior = _likelihood(difference[part], noise[part], grid) * prior
        posterior /= posterior.sum(1, keepdims=True)
        expected[part] = posterior @ grid
        probability[part] = posterior @ (grid > threshold)
    spread = float(np.sqrt(prior @ (grid - prior @ grid) ** 2))
    frame = pd.DataFrame(
        {
            "user_id": users["user_id"].to_numpy(),
            "n": users["n"].to_numpy(),
            "reference": reference,
            "loss": users["loss"].to_numpy(np.float64),
            "difference": difference,
            "expected": expected,
            "probability": probability,
        }
    ).sort_values(["probability", "expected"], ascending=False, kind="stable", ignore_index=True)
    half = users["half"].to_numpy(np.float64)
    repeated = _split_half_check(n, difference, half)
    return UserEffects(frame, threshold, spread, repeated, len(frame), int(n.sum()))


def _fit_prior(difference: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid [g] of true differences, and the prior probability of each, [g]."""
    low, high = np.quantile(difference, [0.001, 0.999])
    # The true difference may be more extreme than the observed one.
    room = float(np.sqrt(noise.mean()))
    grid = np.linspace(low - room, high + room, GRID)
    chosen = np.arange(len(difference))
    if len(chosen) > MAX_FITTED_USERS:
        chosen = np.random.default_rng(0).choice(chosen, MAX_FITTED_USERS, replace=False)
    likelihood = _likelihood(difference[chosen], noise[chosen], grid)
    # Without smoothing, the maximum likelihood prior concentrates on a few points, and it would be chance
    # on which side of the threshold they are.
    width = max(SMOOTHING * room, 0.5 * (grid[1] - grid[0]), 1e-9)
    kernel = np.exp(-0.5 * ((grid[:, None] - grid) / width) ** 2)
    kernel /= kernel.sum(0)
    weights = np.full(GRID, 1 / GRID)
    for _ in range(EM_STEPS):
        joint = likelihood * weights
        weights = np.maximum(kernel @ (joint / joint.sum(1, keepdims=True)).mean(0), 1e-12)
    return grid, weights / weights.sum()


def _likelihood(difference: np.ndarray, noise: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Likelihood of each user's difference at each grid point [users, g], scaled by user."""
    # A grid point represents its whole step: add the variance of a uniform step.
    variance = noise[:, None] + (grid[1] - grid[0]) ** 2 / 12 + 1e-12
    power = (difference[:, None] - grid) ** 2 / (2 * variance)
    return np.exp(power.min(1, keepdims=True) - power)


def _split_half_check(n: np.ndarray, difference: np.ndarray, half: np.ndarray) -> Interval | None:
    """Return how much the users who are worst on one half of their rows lose on the other half.

    Each half picks the worst tenth of the users once. None with fewer than 20 users of two rows or
    more.
    """
    has_two_rows = n >= 2
    if has_two_rows.sum() < 20:
        return None
    n, difference, first = n[has_two_rows], difference[has_two_rows], half[has_two_rows]
    first_rows = np.ceil(n / 2)
    second = (difference * n - first * first_rows) / (n - first_rows)
    count = max(2, round(WORST_SHARE * len(n)))
    values = np.concatenate(
        [
            measured[np.argsort(-ranked_by, kind="stable")[:count]]
            for ranked_by, measured in ((first, second), (second, first))
        ]
    )
    error = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return Interval(mean, float(mean - error), float(mean + error), count)


def by_group(users: pd.DataFrame, groups: pd.Series, *, root: bool) -> pd.DataFrame:
    """Return the pooled loss of each group of users under both methods, and the difference.

    users: user_id, n, reference and loss. groups: a label for each user, indexed by user id; users
    without one are left out. root: take roots of pooled losses (RMSE). Columns: group, users,
    reference, value, difference, low, high (95 %, by the delta method from each user's influence).
    """
    grouped = users.merge(groups.rename("group"), left_on="user_id", right_index=True)
    rows = []
    for group, frame in grouped.dropna(subset=["group"]).groupby("group", sort=True):
        n = frame["n"].to_numpy(np.float64)
        first, second = (n * frame[name].to_numpy(np.float64) for name in ("reference", "loss"))
        a, b = first.sum() / n.sum(), second.sum() / n.sum()
        slopes = [0.5 / np.sqrt(max(mean, 1e-12)) if root else 1.0 for mean in (a, b)]
        influence = (slopes[1] * (second - n * b) - slopes[0] * (first - n * a)) / n.sum()
        count = len(frame)
        error = np.sqrt((influence**2).sum() * count / max(count - 1, 1)) if count > 1 else np.nan
        values = (np.sqrt(a), np.sqrt(b)) if root else (a, b)
        gap = values[1] - values[0]
        rows.append((group, count, *values, gap, gap - 1.96 * error, gap + 1.96 * error))
    names = ["group", "users", "reference", "value", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def quantile_groups(values: pd.Series) -> pd.Series:
    """Return the label of each user's quintile of a value, with the same index; equal values get one label."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, QUANTILES + 1)))
    if len(edges) < 3:
        return values.map(lambda value: f"all: {value:.3g}")
    codes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    spans = enumerate(itertools.pairwise(edges), start=1)
    names = [f"{number}: {low:.3g} to {high:.3g}" for number, (low, high) in spans]
    return pd.Series([names[code] for code in codes], values.index)


def with_values(frame: pd.DataFrame, *, ratings: bool) -> pd.DataFrame:
    """Add columns first and second (RMSE of ratings, else the losses) and gap, second - first."""
    root = np.sqrt if ratings else np.asarray
    first, second = root(frame["reference"]), root(frame["loss"])
    return frame.assign(first=first, second=second, gap=second - first)


def difference_bins(gaps: np.ndarray, count: int) -> pd.DataFrame:
    """Count differences in bins of equal width around 0 (from, to, users); the outer bins hold outliers."""
    reach = max(float(np.quantile(np.abs(gaps), 0.998)), 1e-6)
    users, edges = np.histogram(np.clip(gaps, -reach, reach), count, (-reach, reach))
    return pd.DataFrame({"from": edges[:-1], "to": edges[1:], "users": users})


@dataclass(frozen=True)
class UserImpact:
    """The effects of a method on users against the comparison's reference.

    effects: its frame holds only the users most likely to regress. better, worse: shares of users
    with a lower and a higher loss. sample: a seeded sample of users with the columns of that frame.
    bars: a histogram of differences (see difference_bins). groups: by_group in quintiles, by
    GROUPED_BY.
    """

    effects: UserEffects
    better: float
    worse: float
    sample: pd.DataFrame
    bars: pd.DataFrame
    groups: dict[str, pd.DataFrame]


def effects_between(users: pd.DataFrame, evaluation: str, reference: str) -> UserEffects:
    """Return the effects of an evaluation against the reference, from a comparison's table "users"."""
    columns = {f"{name}_{evaluation}": name for name in ("loss", "sd", "half")}
    frame = users[["user_id", "n", *columns]].rename(columns=columns)
    return user_effects(frame.assign(reference=users[f"loss_{reference}"]))


def measure_user_impact(
    users: pd.DataFrame, evaluation: str, reference: str, *, ratings: bool
) -> UserImpact:
    """Compute the impact of an evaluation from a comparison's table "users"."""
    effects = effects_between(users, evaluation, reference)
    frame = effects.frame
    gaps = with_values(frame, ratings=ratings)["gap"].to_numpy()
    activity = users.set_index("user_id")
    listed = max(LISTED_USERS, len(effects.worse(LIKELY)))
    return UserImpact(
        replace(effects, frame=frame.head(listed)),
        float((gaps < 0).mean()),
        float((gaps > 0).mean()),
        frame.sample(min(MAX_SAMPLED, len(frame)), random_state=0),
        difference_bins(gaps, BINS),
        {
            name: by_group(frame, quantile_groups(activity[name]), root=ratings)
            for name in GROUPED_BY
        },
    )
