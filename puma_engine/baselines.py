"""Predictions that need no language model: what any method has to beat."""

from __future__ import annotations

import numpy as np
import pandas as pd

from puma_engine.errors import DataError

GRID = (1.0, 2.0, 5.0, 10.0, 20.0)
ROUNDS = 10


class _Mean:
    """Shared parts: ids to numbers, and predictions kept in the outcome's range."""

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame | None = None) -> _Mean:
        """Learn from user_id, item_id, outcome; validation rows choose settings."""
        if train.empty:
            raise DataError("A baseline needs train rows; none came.")
        y = train["outcome"].to_numpy(np.float64)
        clicks = y.min() >= 0 and y.max() <= 1
        self.range = (0.001, 0.999) if clicks else (1.0, 5.0)
        self.mean = float(y.mean())
        self._fit(train, validation)
        return self

    def _fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> None:
        raise NotImplementedError

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return predictions [n]; unknown users and items count as average."""
        return np.clip(self._predict(frame), *self.range)

    def _predict(self, frame: pd.DataFrame) -> np.ndarray:
        raise NotImplementedError


class GlobalMean(_Mean):
    """The mean train outcome for everybody and everything."""

    def _fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> None:
        pass

    def _predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full(len(frame), self.mean)


class _Biases(_Mean):
    """Global mean plus item and user offsets, each shrunk by so many pseudo-rows at 0."""

    with_users = True

    def _fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> None:
        user_grid = GRID if self.with_users else (np.inf,)
        best = np.inf
        for item_shrinkage in GRID:
            for user_shrinkage in user_grid:
                offsets = self._offsets(train, item_shrinkage, user_shrinkage)
                held = train if validation is None or validation.empty else validation
                error = np.mean((self._sum(held, *offsets) - held["outcome"].to_numpy()) ** 2)
                if error < best:
                    best, self.item, self.user = error, *offsets

    def _offsets(
        self, train: pd.DataFrame, item_shrinkage: float, user_shrinkage: float
    ) -> tuple[pd.Series, pd.Series]:
        item_code, items = pd.factorize(train["item_id"])
        user_code, users = pd.factorize(train["user_id"])
        rest = train["outcome"].to_numpy(np.float64) - self.mean
        item, user = np.zeros(len(items)), np.zeros(len(users))
        item_count, user_count = np.bincount(item_code), np.bincount(user_code)
        for _ in range(ROUNDS if self.with_users else 1):
            total = np.bincount(item_code, weights=rest - user[user_code])
            item = total / (item_count + item_shrinkage)
            total = np.bincount(user_code, weights=rest - item[item_code])
            user = total / (user_count + user_shrinkage)
        return pd.Series(item, index=items), pd.Series(user, index=users)

    def _sum(self, frame: pd.DataFrame, item: pd.Series, user: pd.Series) -> np.ndarray:
        items = frame["item_id"].map(item).fillna(0).to_numpy(np.float64)
        users = frame["user_id"].map(user).fillna(0).to_numpy(np.float64)
        return self.mean + items + users

    def _predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self._sum(frame, self.item, self.user)


class ItemMean(_Biases):
    """The mean train outcome of each item, shrunk to the global mean."""

    with_users = False


class UserItemBias(_Biases):
    """Global mean plus user and item biases, by alternating ridge regression."""


BASELINES: dict[str, type[_Mean]] = {
    "global_mean": GlobalMean,
    "item_mean": ItemMean,
    "user_item_bias": UserItemBias,
}
