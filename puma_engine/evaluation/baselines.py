"""Predictions that need no language model: what any method has to beat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from puma_engine.errors import DataError

# Loaded where it is used: a page that only shows what baselines are called starts sooner.
if TYPE_CHECKING:
    from scipy.sparse import csr_array

GRID = (1.0, 2.0, 5.0, 10.0, 20.0)
ROUNDS = 10
RIDGES = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
MIDDLE_RANK, OTHER_RANKS = 32, (8, 128)
SWEEPS = 15
STEPS = 2
CHUNK = 8192


class _Mean:
    """Shared parts: predictions kept in the outcome's range, and what readers call them."""

    label: ClassVar[str]

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

    label = "Global mean"

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
                    self.shrinkage = (item_shrinkage, user_shrinkage)

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

    label = "Item mean"
    with_users = False


class UserItemBias(_Biases):
    """Global mean plus user and item biases, by alternating ridge regression."""

    label = "User + item bias"


@dataclass
class _Side:
    """Users or items, and the conjugate gradient steps that improve them given the others.

    rows [n, others]: residuals where there is an outcome; shrinkage: ridge of the bias;
    values [n, 1 + rank]: the bias, then the factors.
    """

    rows: csr_array
    shrinkage: float
    values: np.ndarray
    owner: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.owner = np.repeat(np.arange(self.rows.shape[0]), np.diff(self.rows.indptr))

    def improve(self, other: np.ndarray, ridge: float) -> None:
        """Take a few conjugate gradient steps towards each row's ridge solution."""
        from scipy.sparse import csr_array

        design = other.copy()
        design[:, 0] = 1
        penalty = np.full(design.shape[1], ridge, np.float32)
        penalty[0] = self.shrinkage
        index, indptr, shape = self.rows.indices, self.rows.indptr, self.rows.shape

        def gathered(data: np.ndarray) -> np.ndarray:
            return csr_array((data, index, indptr), shape=shape) @ design

        def normal(x: np.ndarray) -> np.ndarray:
            return gathered(_dots(x, self.owner, design, index)) + penalty * x

        rest = gathered(self.rows.data - other[index, 0]) - normal(self.values)
        step, size = rest, (rest**2).sum(1)
        for _ in range(STEPS):
            moved = normal(step)
            length = size / np.maximum((step * moved).sum(1), 1e-12)
            self.values = self.values + length[:, None] * step
            rest = rest - length[:, None] * moved
            before, size = size, (rest**2).sum(1)
            step = rest + (size / np.maximum(before, 1e-12))[:, None] * step


def _dots(a: np.ndarray, row: np.ndarray, b: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Products of a[row] and b[other], row by row, [len(row)]."""
    found = np.empty(len(row), np.float32)
    for start in range(0, len(row), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = np.einsum("nk,nk->n", a[row[part]], b[other[part]])
    return found


class MatrixFactorisation(UserItemBias):
    """User and item biases plus the product of factors, by alternating least squares.

    The ridge, the rank and the number of sweeps are chosen on validation rows; where no factor
    helps there, or there are none, the biases stay alone.
    """

    label = "Matrix factorisation"

    def _fit(self, train: pd.DataFrame, validation: pd.DataFrame | None) -> None:
        from scipy.sparse import csr_array

        super()._fit(train, validation)
        self.users, user = np.unique(train["user_id"].astype(str), return_inverse=True)
        self.items, item = np.unique(train["item_id"].astype(str), return_inverse=True)
        biases = (
            self.user.rename(str).reindex(self.users).to_numpy(np.float32)[:, None],
            self.item.rename(str).reindex(self.items).to_numpy(np.float32)[:, None],
        )
        self.best = biases
        if validation is None or validation.empty:
            return
        rest = (train["outcome"].to_numpy(np.float64) - self.mean).astype(np.float32)
        shape = (len(self.users), len(self.items))
        # Built row by row: other constructors add up the outcomes of a pair that comes twice.
        order = np.argsort(user, kind="stable")
        back = np.argsort(item, kind="stable")
        self._rows = (
            csr_array((rest[order], item[order], _ends(user, shape[0])), shape=shape),
            csr_array((rest[back], user[back], _ends(item, shape[1])), shape=shape[::-1]),
        )
        self._search(biases, validation)
        del self._rows

    def _search(self, biases: tuple[np.ndarray, np.ndarray], held: pd.DataFrame) -> None:
        """Choose the ridge at the middle rank, then the rank at this ridge."""
        error = self._error(biases, held)
        best_ridge = None
        for ridge in RIDGES:
            found = self._sweep(biases, MIDDLE_RANK, ridge, held, error)
            if found < error:
                error, best_ridge = found, ridge
        if best_ridge is not None:
            for rank in OTHER_RANKS:
                error = min(error, self._sweep(biases, rank, best_ridge, held, error))

    def _sweep(
        self,
        biases: tuple[np.ndarray, np.ndarray],
        rank: int,
        ridge: float,
        held: pd.DataFrame,
        best: float,
    ) -> float:
        """Alternate from small random item factors; keep the best sweep if it beats `best`."""
        drawn = np.random.default_rng(0).normal(0, 0.1, (len(self.items), rank))
        user = _Side(
            self._rows[0],
            self.shrinkage[1],
            np.pad(biases[0], ((0, 0), (0, rank))),
        )
        item = _Side(
            self._rows[1],
            self.shrinkage[0],
            np.hstack([biases[1], drawn.astype(np.float32)]),
        )
        for _ in range(SWEEPS):
            user.improve(item.values, ridge)
            item.improve(user.values, ridge)
            error = self._error((user.values, item.values), held)
            if error < best:
                best, self.best = error, (user.values, item.values)
        return best

    def _error(self, values: tuple[np.ndarray, np.ndarray], held: pd.DataFrame) -> float:
        predicted = np.clip(self._product(values, held), *self.range)
        return float(np.mean((predicted - held["outcome"].to_numpy(np.float64)) ** 2))

    def _product(self, values: tuple[np.ndarray, np.ndarray], frame: pd.DataFrame) -> np.ndarray:
        user = pd.Index(self.users).get_indexer(frame["user_id"].astype(str))
        item = pd.Index(self.items).get_indexer(frame["item_id"].astype(str))
        # The last row, all 0, stands for whoever is unknown.
        users, items = (np.pad(part, ((0, 1), (0, 0))) for part in values)
        factors = _dots(users[:, 1:], user, items[:, 1:], item)
        return self.mean + users[user, 0] + items[item, 0] + factors.astype(np.float64)

    def _predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self._product(self.best, frame)


def _ends(code: np.ndarray, count: int) -> np.ndarray:
    """Where each code's rows end once they are sorted, after a leading 0."""
    return np.concatenate([[0], np.cumsum(np.bincount(code, minlength=count))])


BASELINES: dict[str, type[_Mean]] = {
    "global_mean": GlobalMean,
    "item_mean": ItemMean,
    "user_item_bias": UserItemBias,
    "matrix_factorisation": MatrixFactorisation,
}
