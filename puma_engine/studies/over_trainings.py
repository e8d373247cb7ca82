"""How far trainings lie apart: Student's interval of a mean of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Fewer trainings say nothing of how far trainings lie apart.
FEWEST = 3


def over_trainings(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean, by Student's t; None for fewer than three values."""
    if len(values) < FEWEST:
        return None
    from scipy.special import stdtrit

    middle, error = _mean_and_error(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * error
    return middle - half, middle + half


def p_over_trainings(values: Sequence[float]) -> float:
    """Return the two-sided p of a paired t-test that the mean of at least two values is zero."""
    from scipy.special import stdtr

    middle, error = _mean_and_error(values)
    if not error:
        return 0.0 if middle else 1.0
    return float(2 * stdtr(len(values) - 1, -abs(middle) / error))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    middle = sum(values) / count
    spread = math.sqrt(sum((one - middle) ** 2 for one in values) / (count - 1))
    return middle, spread / math.sqrt(count)
