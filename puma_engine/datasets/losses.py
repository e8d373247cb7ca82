"""The loss of a row, for validation, for the selection signal, and for the comparison of users."""

import numpy as np

# Probabilities are clipped to [LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP], so that a log loss is finite.
LOG_LOSS_CLIP = 1e-7


def row_losses(task: str, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the loss of each row, [n]: squared error of a rating, log loss of a click.

    y: outcomes [n], ratings or 0 and 1; p: predictions [n], ratings or click probabilities.
    """
    if task == "rating":
        return (p - y) ** 2
    p = np.clip(p, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))
