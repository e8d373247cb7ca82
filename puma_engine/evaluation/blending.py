"""A blend of the predictions of several methods, with weights fitted on validation rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

PENALTIES = tuple(10.0**power for power in range(-2, 5))
PROBABILITIES = (1e-6, 1 - 1e-6)
STARS = (1.0, 5.0)


class Blend:
    """Weights of methods and an intercept, fitted on rows that trained none of the methods.

    Ratings are blended by ridge regression with a penalty chosen by leave-one-out error, the log
    odds of clicks by logistic regression (Breiman, "Stacked Regressions", Machine Learning 1996).
    task: rating or click. weights: [methods]; intercept: a number of stars, or log odds.
    """

    def __init__(self, task: str) -> None:
        self.task = task

    def fit(self, predictions: np.ndarray, outcome: np.ndarray) -> Self:
        """Fit the weights of predictions, [rows, methods], to outcomes, [rows]."""
        from sklearn.linear_model import LogisticRegression, RidgeCV

        model: Any = LogisticRegression() if self.task == "click" else RidgeCV(PENALTIES)
        model.fit(self._features(predictions), outcome)
        self.weights = np.ravel(model.coef_)
        self.intercept = float(np.ravel(model.intercept_)[0])
        return self

    def predict(self, predictions: np.ndarray) -> np.ndarray:
        """Return blended predictions, [rows]: stars within 1 to 5, or probabilities of a click."""
        total = self._features(predictions) @ self.weights + self.intercept
        return 1 / (1 + np.exp(-total)) if self.task == "click" else np.clip(total, *STARS)

    def _features(self, predictions: np.ndarray) -> np.ndarray:
        if self.task != "click":
            return predictions
        p = np.clip(predictions, *PROBABILITIES)
        return np.log(p / (1 - p))
