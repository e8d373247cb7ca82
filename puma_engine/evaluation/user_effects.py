"""Which users a method serves worse than another, by how much, and how sure that is.

A user has few held-out rows, so the plain difference of a user's losses is mostly chance.
Each user's difference is therefore weighed against how differences are spread over all users
(empirical Bayes: the spread on a grid, fitted by expectation maximisation; normal noise), and
a check without any model stands beside it: users picked on one half of their rows are looked
at on the other half.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from puma_engine.errors import DataError
from puma_engine.evaluation.metrics import Interval

# A user regresses when the expected loss grows by more than this share of the pooled loss.
USER_MARGIN = 0.05
SURE = 0.9
LIKELY = 0.75
WORST_SHARE = 0.1
# So many rows' worth of the pooled variance go into the variance of each user's rows.
PRIOR_ROWS = 4.0
# The spread over users is fitted on a grid of so many points, with so many users at most.
GRID = 101
FITTED_USERS = 5000
ROUNDS = 100
CHUNK = 20_000
# Width of the smoothing between rounds, in standard deviations of the noise.
SMOOTHING = 0.15
FIFTHS = 5


@dataclass(frozen=True)
class UserEffects:
    """A method against a reference, user by user.

    frame: user_id, n (rows), reference and loss (mean row loss of each), difference (loss
    minus reference; above 0 the user is worse off), expected (the difference that is left
    when chance is taken out) and probability (that the true difference is above the
    threshold); the surest first. A comparison keeps those of the likely users alone, so
    users and rows count everybody. threshold: in units of the loss. spread: standard deviation
    of true differences between users. repeated: mean difference on one half of the rows of the
    users who are worst on the other half; None with fewer than 20 users of 2 rows or more.
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


def row_losses(task: str, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Loss of each row [n]: squared error of a rating, log loss of a click."""
    if task == "rating":
        return (p - y) ** 2
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    return -(y * np.log(clipped) + (1 - y) * np.log(1 - clipped))


def per_user_losses(user: np.ndarray, reference: np.ndarray, loss: np.ndarray) -> pd.DataFrame:
    """One row a user from the losses of rows [n]: user_id, n, reference, loss, sd, half.

    sd: standard deviation of the row differences (NaN for one row); half: mean difference
    over every second row of the user, the first included.
    """
    codes, names = pd.factorize(np.asarray(user), sort=True)
    difference = loss - reference
    n = np.bincount(codes)
    mean = np.bincount(codes, weights=difference) / n
    squares = np.bincount(codes, weights=(difference - mean[codes]) ** 2)
    order = np.argsort(codes, kind="stable")
    place = np.empty(len(codes), dtype=np.int64)
    place[order] = np.arange(len(codes)) - np.repeat(np.cumsum(n) - n, n)
    even = place % 2 == 0
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


def user_effects(users: pd.DataFrame, *, user_margin: float = USER_MARGIN) -> UserEffects:
    """Judge each user from user_id, n, reference, loss, sd and half (see per_user_losses).

    user_margin: share of the reference's pooled loss by which a user may lose and still not
    count as regressing. Raises DataError for an empty table.
    """
    if users.empty:
        raise DataError("There are no users to compare; the two methods share no held-out row.")
    n = users["n"].to_numpy(np.float64)
    reference = users["reference"].to_numpy(np.float64)
    difference = users["loss"].to_numpy(np.float64) - reference
    noise = _noise(n, difference, users["sd"].to_numpy(np.float64))
    threshold = user_margin * float(np.average(reference, weights=n))
    grid, weights = _spread(difference, noise)
    expected, probability = _posterior(difference, noise, grid, weights, threshold)
    spread = float(np.sqrt(weights @ (grid - weights @ grid) ** 2))
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
    repeated = _repeated(n, difference, half)
    return UserEffects(frame, threshold, spread, repeated, len(frame), int(n.sum()))


def _noise(n: np.ndarray, difference: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Variance of each user's mean difference [users], its rows' variance drawn to the pooled."""
    freedom = np.maximum(n - 1, 0)
    squares = np.where(freedom > 0, np.nan_to_num(sd) ** 2 * freedom, 0.0)
    # With one row a user nothing tells noise from taste: all is taken for noise.
    pooled = squares.sum() / freedom.sum() if freedom.sum() else float(difference.var())
    return (PRIOR_ROWS * pooled + squares) / (PRIOR_ROWS + freedom) / n


def _spread(difference: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grid [g] of true differences and how probable each is among users, weights [g]."""
    low, high = np.quantile(difference, [0.001, 0.999])
    # What is observed at an end may come from beyond it.
    room = float(np.sqrt(noise.mean()))
    grid = np.linspace(low - room, high + room, GRID)
    chosen = np.arange(len(difference))
    if len(chosen) > FITTED_USERS:
        chosen = np.random.default_rng(0).choice(chosen, FITTED_USERS, replace=False)
    likelihood = _likelihood(difference[chosen], noise[chosen], grid)
    # Without smoothing the weights gather on a few points, and which side of the threshold
    # these fall on would be chance.
    width = max(SMOOTHING * room, 0.5 * (grid[1] - grid[0]), 1e-9)
    kernel = np.exp(-0.5 * ((grid[:, None] - grid) / width) ** 2)
    kernel /= kernel.sum(0)
    weights = np.full(GRID, 1 / GRID)
    for _ in range(ROUNDS):
        shares = likelihood * weights
        weights = np.maximum(kernel @ (shares / shares.sum(1, keepdims=True)).mean(0), 1e-12)
    return grid, weights / weights.sum()


def _posterior(
    difference: np.ndarray,
    noise: np.ndarray,
    grid: np.ndarray,
    weights: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Expected true difference and probability that it exceeds the threshold, both [users]."""
    expected, probability = np.empty(len(difference)), np.empty(len(difference))
    for start in range(0, len(difference), CHUNK):
        part = slice(start, start + CHUNK)
        shares = _likelihood(difference[part], noise[part], grid) * weights
        shares /= shares.sum(1, keepdims=True)
        expected[part] = shares @ grid
        probability[part] = shares @ (grid > threshold)
    return expected, probability


def _likelihood(difference: np.ndarray, noise: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Likelihood of each user's difference at each grid point [users, g], scaled by user."""
    # A point of the grid stands for its whole step.
    variance = noise[:, None] + (grid[1] - grid[0]) ** 2 / 12 + 1e-12
    power = (difference[:, None] - grid) ** 2 / (2 * variance)
    return np.exp(power.min(1, keepdims=True) - power)


def _repeated(n: np.ndarray, difference: np.ndarray, half: np.ndarray) -> Interval | None:
    """Mean difference on the other half of the rows of the worst tenth of users, both ways."""
    known = n >= 2
    if known.sum() < 20:
        return None
    n, difference, first = n[known], difference[known], half[known]
    count = np.ceil(n / 2)
    second = (difference * n - first * count) / (n - count)
    most = max(2, round(WORST_SHARE * len(n)))
    seen = [
        other[np.argsort(-chosen, kind="stable")[:most]]
        for chosen, other in ((first, second), (second, first))
    ]
    values = np.concatenate(seen)
    error = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(
        float(values.mean()), float(values.mean() - error), float(values.mean() + error), most
    )


def by_group(users: pd.DataFrame, groups: pd.Series, *, root: bool) -> pd.DataFrame:
    """Pooled loss of each group of users under both methods, and the difference.

    users: user_id, n, reference and loss. groups: a label a user, indexed by user id; users
    without one are left out. root: take roots of pooled losses (RMSE). Columns: group,
    users, reference, value, difference, low, high (95 %, from each user's influence).
    """
    own = users.merge(groups.rename("group"), left_on="user_id", right_index=True)
    rows = []
    for group, frame in own.dropna(subset=["group"]).groupby("group", sort=True):
        n = frame["n"].to_numpy(np.float64)
        first, second = (n * frame[name].to_numpy(np.float64) for name in ("reference", "loss"))
        a, b = first.sum() / n.sum(), second.sum() / n.sum()
        # The slope of the root turns a small change of the mean into one of its root.
        slopes = [0.5 / np.sqrt(max(one, 1e-12)) if root else 1.0 for one in (a, b)]
        influence = (slopes[1] * (second - n * b) - slopes[0] * (first - n * a)) / n.sum()
        count = len(frame)
        error = np.sqrt((influence**2).sum() * count / max(count - 1, 1)) if count > 1 else np.nan
        values = (np.sqrt(a), np.sqrt(b)) if root else (a, b)
        gap = values[1] - values[0]
        rows.append((group, count, *values, gap, gap - 1.96 * error, gap + 1.96 * error))
    names = ["group", "users", "reference", "value", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def quantile_groups(values: pd.Series) -> pd.Series:
    """Name each user's fifth by a value, by the same index; equal values stay together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, FIFTHS + 1)))
    if len(edges) < 3:
        return values.map(lambda one: f"all: {one:.3g}")
    codes = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    spans = enumerate(itertools.pairwise(edges), start=1)
    names = [f"{number}: {low:.3g} to {high:.3g}" for number, (low, high) in spans]
    return pd.Series([names[code] for code in codes], values.index)


def with_values(frame: pd.DataFrame, *, ratings: bool) -> pd.DataFrame:
    """Add values as people read them: first and second (RMSE of ratings, else the losses) and gap."""
    root = np.sqrt if ratings else np.asarray
    first, second = root(frame["reference"]), root(frame["loss"])
    return frame.assign(first=first, second=second, gap=second - first)


def difference_bins(gaps: np.ndarray, count: int) -> pd.DataFrame:
    """Count differences in bins of equal width around 0, outliers in the last: from, to, users."""
    reach = max(float(np.quantile(np.abs(gaps), 0.998)), 1e-6)
    users, edges = np.histogram(np.clip(gaps, -reach, reach), count, (-reach, reach))
    return pd.DataFrame({"from": edges[:-1], "to": edges[1:], "users": users})
