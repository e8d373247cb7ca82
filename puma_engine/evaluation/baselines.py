"""Baselines without a language model, which any method has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import pandas as pd

from puma_engine.errors import DataError

# SciPy is imported in functions, so that pages that only show labels of baselines start sooner.
if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHRINKAGES = (1.0, 2.0, 5.0, 10.0, 20.0)
BIAS_SWEEPS = 10
RIDGES = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
# The ridge is chosen at the first rank, then the other ranks are tried with it.
FIRST_RANK, OTHER_RANKS = 32, (8, 128)
ALS_SWEEPS = 15
CG_STEPS = 2
CHUNK = 8192


class UserItemBias:
    """Global mean plus user and item biases, by alternating ridge regression.

    Each bias is shrunk towards 0 by a number of pseudo-rows, which is chosen on validation rows
    (Koren, "Factor in the Neighbors", TKDD 2010, section 2.1); with an infinite number the bias is
    0. label: the name of the baseline for readers.
    """

    label: ClassVar[str] = "User + item bias"
    item_shrinkages: ClassVar[tuple[float, ...]] = SHRINKAGES
    user_shrinkages: ClassVar[tuple[float, ...]] = SHRINKAGES

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame | None = None) -> Self:
        """Fit rows of user_id, item_id and outcome; validation rows choose hyperparameters.

        Raises DataError without train rows.
        """
        if train.empty:
            raise DataError("A baseline needs train rows; there are none.")
        y = train["outcome"].to_numpy(np.float64)
        clicks = y.min() >= 0 and y.max() <= 1
        self.range = (0.001, 0.999) if clicks else (1.0, 5.0)
        self.mean = float(y.mean())
        rows = train if validation is None or validation.empty else validation
        best = np.inf
        for item_shrinkage in self.item_shrinkages:
            for user_shrinkage in self.user_shrinkages:
                biases = self._biases(train, item_shrinkage, user_shrinkage)
                error = np.mean((self._sum(rows, *biases) - rows["outcome"].to_numpy()) ** 2)
                if error < best:
                    best, self.item, self.user = error, *biases
                    self.shrinkage = (item_shrinkage, user_shrinkage)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return predictions [n] within the outcome's range; unknown ids count as average."""
        return np.clip(self._predict(frame), *self.range)

    def _biases(
        self, train: pd.DataFrame, item_shrinkage: float, user_shrinkage: float
    ) -> tuple[pd.Series, pd.Series]:
        item_code, items = pd.factorize(train["item_id"])
        user_code, users = pd.factorize(train["user_id"])
        residual = train["outcome"].to_numpy(np.float64) - self.mean
        item, user = np.zeros(len(items)), np.zeros(len(users))
        item_count, user_count = np.bincount(item_code), np.bincount(user_code)
        for _ in range(BIAS_SWEEPS if np.isfinite(user_shrinkage) else 1):
            total = np.bincount(item_code, weights=residual - user[user_code])
            item = total / (item_count + item_shrinkage)
            total = np.bincount(user_code, weights=residual - item[item_code])
            user = total / (user_count + user_shrinkage)
        return pd.Series(item, index=items), pd.Series(user, index=users)

    def _sum(self, frame: pd.DataFrame, item: pd.Series, user: pd.Series) -> np.ndarray:
        items = frame["item_id"].map(item).fillna(0).to_numpy(np.float64)
        users = frame["user_id"].map(user).fillna(0).to_numpy(np.float64)
        return self.mean + items + users

    def _predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self._sum(frame, self.item, self.user)


class ItemMean(UserItemBias):
    """The mean train outcome of each item, shrunk to the global mean."""

    label = "Item mean"
    user_shrinkages = (np.inf,)


class GlobalMean(ItemMean):
    """The mean train outcome, for every user and item."""

    label = "Global mean"
    item_shrinkages = (np.inf,)


class MatrixFactorisation(UserItemBias):
    """User and item biases plus the product of factors, by alternating least squares (ALS).

    Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems", Computer
    2009; the least squares are solved by a few conjugate gradient steps as in Takács, Pilászy and
    Tikk, RecSys 2011. The ridge, the rank and the number of sweeps are chosen on validation rows;
    without such rows, or if factors do not lower the error on them, only the biases are used.
    factors: a fixed rank, which is used in any case. seed: of the initial item factors.
    """

    label = "Matrix factorisation"

    def __init__(self, factors: int | None = None, seed: int = 0) -> None:
        self.factors, self.seed = factors, seed
        self.ridge: float | None = None

    def fit(self, train: pd.DataFrame, validation: pd.DataFrame | None = None) -> Self:
        """Fit biases, then factors on top of them; see `UserItemBias.fit`."""
        super().fit(train, validation)
        self.users, user = np.unique(train["user_id"].astype(str), return_inverse=True)
        self.items, item = np.unique(train["item_id"].astype(str), return_inverse=True)
        # [users, 1 + rank] and [items, 1 + rank]: the bias, then the factors.
        self.parameters = (
            self.user.rename(str).reindex(self.users).to_numpy(np.float32)[:, None],
            self.item.rename(str).reindex(self.items).to_numpy(np.float32)[:, None],
        )
        if validation is None or validation.empty:
            return self
        residual = (train["outcome"].to_numpy(np.float64) - self.mean).astype(np.float32)
        shape = (len(self.users), len(self.items))
        by_user = _sparse(residual, user, item, shape)
        by_item = _sparse(residual, item, user, shape[::-1])
        biases = self.parameters
        self.error = self._error(biases, validation) if self.factors is None else np.inf
        first_rank, other_ranks = (
            (FIRST_RANK, OTHER_RANKS) if self.factors is None else (self.factors, ())
        )
        for candidate in RIDGES:
            if self._als(by_user, by_item, biases, first_rank, candidate, validation):
                self.ridge = candidate
        if self.ridge is not None:
            for rank in other_ranks:
                self._als(by_user, by_item, biases, rank, self.ridge, validation)
        return self

    def _als(
        self,
        by_user: csr_array,
        by_item: csr_array,
        biases: tuple[np.ndarray, np.ndarray],
        rank: int,
        ridge: float,
        validation: pd.DataFrame,
    ) -> bool:
        """Alternate from small random item factors; keep the best sweep if it lowers the error.

        Returns whether the error became lower.
        """
        noise = np.random.default_rng(self.seed).normal(0, 0.1, (len(self.items), rank))
        user = np.pad(biases[0], ((0, 0), (0, rank)))
        item = np.hstack([biases[1], noise.astype(np.float32)])
        item_shrinkage, user_shrinkage = self.shrinkage
        better = False
        for _ in range(ALS_SWEEPS):
            user = _least_squares_steps(by_user, user, item, user_shrinkage, ridge)
            item = _least_squares_steps(by_item, item, user, item_shrinkage, ridge)
            error = self._error((user, item), validation)
            if error < self.error:
                self.error, self.parameters, better = error, (user, item), True
        return better

    def _error(self, parameters: tuple[np.ndarray, np.ndarray], rows: pd.DataFrame) -> float:
        predicted = np.clip(self._product(parameters, rows), *self.range)
        return float(np.mean((predicted - rows["outcome"].to_numpy(np.float64)) ** 2))

    def _product(self, parameters: tuple[np.ndarray, np.ndarray], rows: pd.DataFrame) -> np.ndarray:
        user = pd.Index(self.users).get_indexer(rows["user_id"].astype(str))
        item = pd.Index(self.items).get_indexer(rows["item_id"].astype(str))
        # Unknown users and items have index -1: a last row of zeros.
        users, items = (np.pad(part, ((0, 1), (0, 0))) for part in parameters)
        factors = _dots(users[:, 1:], user, items[:, 1:], item)
        return self.mean + users[user, 0] + items[item, 0] + factors.astype(np.float64)

    def _predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self._product(self.parameters, frame)


def _least_squares_steps(
    residuals: csr_array, values: np.ndarray, fixed: np.ndarray, shrinkage: float, ridge: float
) -> np.ndarray:
    """Take a few conjugate gradient steps towards each row's ridge solution, given the others.

    residuals [n, others]: outcomes minus the mean; values [n, 1 + rank] and fixed
    [others, 1 + rank]: bias and factors; shrinkage: ridge of the bias. Returns new values.
    """
    from scipy.sparse import csr_array

    row = np.repeat(np.arange(residuals.shape[0]), np.diff(residuals.indptr))
    design = fixed.copy()
    design[:, 0] = 1
    penalty = np.full(design.shape[1], ridge, np.float32)
    penalty[0] = shrinkage
    index, indptr, shape = residuals.indices, residuals.indptr, residuals.shape

    def project(data: np.ndarray) -> np.ndarray:
        return csr_array((data, index, indptr), shape=shape) @ design

    def normal(x: np.ndarray) -> np.ndarray:
        return project(_dots(x, row, design, index)) + penalty * x

    gradient = project(residuals.data - fixed[index, 0]) - normal(values)
    step, size = gradient, (gradient**2).sum(1)
    for _ in range(CG_STEPS):
        moved = normal(step)
        length = size / np.maximum((step * moved).sum(1), 1e-12)
        values = values + length[:, None] * step
        gradient = gradient - length[:, None] * moved
        previous, size = size, (gradient**2).sum(1)
        step = gradient + (size / np.maximum(previous, 1e-12))[:, None] * step
    return values


def _sparse(
    values: np.ndarray, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]
) -> csr_array:
    """Return a sparse matrix that keeps several values of one cell; other constructors add them up."""
    from scipy.sparse import csr_array

    order = np.argsort(row, kind="stable")
    row_pointers = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=shape[0]))])
    return csr_array((values[order], column[order], row_pointers), shape=shape)


def _dots(a: np.ndarray, row: np.ndarray, b: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the dot products of a[row] and b[other], [len(row)]."""
    products = np.empty(len(row), np.float32)
    for start in range(0, len(row), CHUNK):
        part = slice(start, start + CHUNK)
        products[part] = np.einsum("nk,nk->n", a[row[part]], b[other[part]])
    return products


BASELINES: dict[str, type[UserItemBias]] = {
    "global_mean": GlobalMean,
    "item_mean": ItemMean,
    "user_item_bias": UserItemBias,
    "matrix_factorisation": MatrixFactorisation,
}
