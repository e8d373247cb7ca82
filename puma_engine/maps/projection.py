"""Maps of prompts: two tables of the same users in the plane, aligned, clustered and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma_engine.errors import ConfigError, DataError
from puma_engine.selection.clustering import kmeans, principal_components

METHODS = ("umap", "pca")
FEWEST_USERS = 5
# Trust compares all pairs of users, so it is measured on a sample of at most so many.
TRUST_SAMPLE = 2000
# Whoever is not drawn on a UMAP is put between so many drawn users.
PLACED_BY = 5

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Projection:
    """Maps of n users, row i of each array for user_ids[i].

    source, migrated [n, 2] float32: coordinates; those of migrated are shifted, turned, mirrored
    and scaled as a whole to lie on source with its spread. space [n, k] float64: principal
    components of the source prompts, migrated_space those of the others; cluster [n]: k-means
    labels in space. facts: how far to trust it.
    """

    user_ids: np.ndarray
    source: np.ndarray
    migrated: np.ndarray
    space: np.ndarray
    migrated_space: np.ndarray
    cluster: np.ndarray
    facts: dict[str, Any]


def project(
    user_ids: np.ndarray,
    source: np.ndarray,
    migrated: np.ndarray,
    *,
    method: str = "umap",
    clusters: int = 15,
    neighbours: int = 15,
    seed: int = 0,
    announce: Announce = lambda _text: None,
) -> Projection:
    """Draw source [n, d] and migrated [n, e] prompts of the same users as two aligned maps.

    Each table goes through its own PCA to at most 50 components, then UMAP (or its first two
    components, method="pca"). facts: trust_source and trust_migrated, the trustworthiness of
    each map against the prompts themselves (1 is perfect); shared_neighbours, the mean share
    of a user's nearest users in one space that are so in the other; misfit, the share of the
    source map's spread that the aligned map misses; trust_users and trust_neighbours, what
    these were measured on. Raises DataError or ConfigError.
    """
    check(method, clusters, neighbours)
    if len(user_ids) < FEWEST_USERS:
        raise DataError(
            f"A map needs {FEWEST_USERS} users or more that both tables hold; there are "
            f"{len(user_ids)}."
        )
    tables = [np.asarray(values, dtype=np.float64) for values in (source, migrated)]
    announce("finding principal components")
    spaces = [principal_components(values, seed) for values in tables]
    label = kmeans(spaces[0], clusters, seed)
    maps = []
    for name, space in zip(("source", "migrated"), spaces, strict=True):
        announce(f"drawing the {name} map ({method})")
        maps.append(_draw(space, method, neighbours, seed))
    announce("measuring trust")
    maps[1], misfit = align(maps[1], maps[0])
    facts = {"method": method, "misfit": misfit} | _trust(tables, maps, neighbours, seed)
    first, second = (flat.astype(np.float32) for flat in maps)
    return Projection(user_ids, first, second, spaces[0], spaces[1], label, facts)


class OutOfSampleProjector:
    """Puts users onto a map that others were drawn on, from their prompts.

    A map of principal components is linear in the prompts, so anybody's place is exact. On a
    UMAP a user is put at the mean of the PLACED_BY nearest drawn users, near ones first.
    """

    def __init__(
        self, prompts: np.ndarray, space: np.ndarray, flat: np.ndarray, method: str
    ) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.centre = prompts.mean(axis=0, dtype=np.float64)
        self.flat, self.method = np.asarray(flat, np.float64), method
        aim = space if method == "umap" else self.flat - self.flat.mean(axis=0)
        shifted = prompts - self.centre
        self.weights = np.linalg.lstsq(shifted.T @ shifted, shifted.T @ aim, rcond=None)[0]
        if method == "umap":
            few = min(PLACED_BY, len(space))
            self.near = NearestNeighbors(n_neighbors=few, algorithm="brute").fit(space)

    def __call__(self, prompts: np.ndarray) -> np.ndarray:
        """Return places [m, 2] float32 for prompts [m, d]."""
        found = (prompts - self.centre) @ self.weights
        if self.method == "pca":
            return (found + self.flat.mean(axis=0)).astype(np.float32)
        far, rows = self.near.kneighbors(found)
        share = 1 / np.maximum(far, 1e-9)
        share /= share.sum(axis=1, keepdims=True)
        return np.einsum("mk,mkd->md", share, self.flat[rows]).astype(np.float32)


class Clusters:
    """Puts users into the cluster whose middle is nearest to them."""

    def __init__(self, prompts: np.ndarray, cluster: np.ndarray) -> None:
        count = np.bincount(cluster).astype(np.float64)
        self.middle = np.zeros((len(count), prompts.shape[1]))
        np.add.at(self.middle, cluster, prompts)
        self.middle /= count[:, None]

    def __call__(self, prompts: np.ndarray) -> np.ndarray:
        """Return labels [m] int16 for prompts [m, d]."""
        far = (self.middle**2).sum(axis=1) - 2 * prompts @ self.middle.T
        return far.argmin(axis=1).astype(np.int16)


def check(method: str, clusters: int, neighbours: int) -> None:
    """Raise ConfigError for settings that no map can have."""
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}; choose {' or '.join(METHODS)}.")
    if clusters < 1 or neighbours < 2:
        raise ConfigError(
            f"A map has 1 cluster and 2 neighbours or more, not {clusters} and {neighbours}."
        )


def align(moved: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, float]:
    """Lay points [n, 2] on others by shift, rotation and reflection, at their spread (Procrustes).

    Returns the moved points, and the share of the fixed points' spread that the best such
    copy of any size leaves unexplained.
    """
    from scipy.linalg import orthogonal_procrustes

    centre = fixed.mean(axis=0)
    a, b = moved - moved.mean(axis=0), fixed - centre
    spread, size = float((b**2).sum()), float((a**2).sum())
    if not spread or not size:
        return a + centre, 0.0 if spread == size else 1.0
    turn, strength = orthogonal_procrustes(a, b)
    laid = a @ turn * np.sqrt(spread / size)
    return laid + centre, max(0.0, 1 - float(strength) ** 2 / (spread * size))


def _draw(space: np.ndarray, method: str, neighbours: int, seed: int) -> np.ndarray:
    if method == "pca" or space.shape[1] < 2:
        return np.pad(space, ((0, 0), (0, max(0, 2 - space.shape[1]))))[:, :2]
    from umap import UMAP

    # With few users the default start has too few eigenvectors to draw from.
    start = "spectral" if len(space) > 50 else "random"
    few = min(neighbours, len(space) - 1)
    drawn = UMAP(n_neighbors=few, init=start, random_state=seed, n_jobs=1).fit_transform(space)
    return np.asarray(drawn, dtype=np.float64)


def _trust(
    tables: list[np.ndarray], maps: list[np.ndarray], neighbours: int, seed: int
) -> dict[str, Any]:
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    n = len(maps[0])
    rows = np.random.default_rng(seed).choice(n, min(n, TRUST_SAMPLE), replace=False)
    k = min(neighbours, (len(rows) - 1) // 2)
    near = []
    for values in tables:
        model = NearestNeighbors(n_neighbors=k).fit(values[rows])
        near.append(model.kneighbors(return_distance=False))
    both = [len(np.intersect1d(a, b)) for a, b in zip(*near, strict=True)]
    trust = [
        float(trustworthiness(values[rows], flat[rows], n_neighbors=k))
        for values, flat in zip(tables, maps, strict=True)
    ]
    return {
        "trust_source": trust[0],
        "trust_migrated": trust[1],
        "shared_neighbours": float(np.mean(both)) / k,
        "trust_users": len(rows),
        "trust_neighbours": k,
    }
