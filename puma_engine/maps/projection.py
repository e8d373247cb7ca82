"""Maps of users: two prompt tables projected to the plane, aligned and clustered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from puma_engine.errors import ConfigError, DataError
from puma_engine.selection.clustering import kmeans, principal_components

METHODS = ("umap", "pca")
MIN_USERS = 5
# Trustworthiness compares all pairs of users, so it is measured on a sample of at most this size.
TRUST_SAMPLE = 2000
# Users outside a UMAP's sample are placed at the weighted mean of this many sampled users.
OUT_OF_SAMPLE_NEIGHBOURS = 5


@dataclass(frozen=True)
class Projection:
    """Maps of n users; row i of each array belongs to user_ids[i].

    source, migrated [n, 2] float32: coordinates, those of migrated aligned to source; space,
    migrated_space [n, k] float64: principal components of the prompts; cluster [n]: k-means labels
    in `space`; measures: how far to trust the maps, see `project`.
    """

    user_ids: np.ndarray
    source: np.ndarray
    migrated: np.ndarray
    space: np.ndarray
    migrated_space: np.ndarray
    cluster: np.ndarray
    measures: dict[str, Any]


def project(
    user_ids: np.ndarray,
    source: np.ndarray,
    migrated: np.ndarray,
    *,
    method: str = "umap",
    clusters: int = 15,
    neighbours: int = 15,
    seed: int = 0,
    announce: Callable[[str], None] = lambda _text: None,
) -> Projection:
    """Project source [n, d] and migrated [n, e] prompts of the same users to two aligned maps.

    Each table is reduced by its own PCA to at most 50 components, then by UMAP (McInnes et al.
    2018) or to its first two components (method="pca"). clusters: of k-means on the source's
    components; neighbours: of UMAP and of the measures. Measures of the result: trust_source and
    trust_migrated, the trustworthiness (Venna & Kaski 2001) of each map against its prompts, 1 is
    perfect; shared_neighbours, the mean share of a user's nearest users in one table that are
    nearest users in the other, too; misfit, see `align`; trust_users and trust_neighbours, the
    numbers of users and neighbours that were used; variance_source and variance_migrated, the share
    of the prompts' variance along their first principal component. Raises DataError for fewer than
    MIN_USERS users, and what `check` raises.
    """
    check(method, clusters, neighbours)
    if len(user_ids) < MIN_USERS:
        raise DataError(
            f"A map needs {MIN_USERS} users or more that both tables hold; there are {len(user_ids)}."
        )
    tables = [np.asarray(values, dtype=np.float64) for values in (source, migrated)]
    announce("computing principal components")
    spaces = [principal_components(values, seed) for values in tables]
    labels = kmeans(spaces[0], clusters, seed)
    maps = []
    for name, space in zip(("source", "migrated"), spaces, strict=True):
        announce(f"drawing the {name} map ({method})")
        if method == "pca" or space.shape[1] < 2:
            maps.append(np.pad(space, ((0, 0), (0, max(0, 2 - space.shape[1]))))[:, :2])
            continue
        from umap import UMAP

        # With few users the spectral layout has too few eigenvectors.
        init = "spectral" if len(space) > 50 else "random"
        model = UMAP(min(neighbours, len(space) - 1), init=init, random_state=seed, n_jobs=1)
        maps.append(np.asarray(model.fit_transform(space), dtype=np.float64))
    announce("measuring trustworthiness")
    maps[1], misfit = align(maps[1], maps[0])
    measures = {"method": method, "misfit": misfit} | _trust(tables, maps, neighbours, seed)
    for name, values, space in zip(("source", "migrated"), tables, spaces, strict=True):
        total = float(values.var(axis=0).sum())
        measures[f"variance_{name}"] = float(space[:, 0].var()) / total if total else 0.0
    first, second = (points.astype(np.float32) for points in maps)
    return Projection(user_ids, first, second, spaces[0], spaces[1], labels, measures)


@dataclass(frozen=True)
class PrincipalMap:
    """The first two principal components of two prompt tables of the same n users.

    source, migrated [n, 2]: coordinates, those of migrated aligned to source; source_shares,
    migrated_shares [2]: the share of each table's variance along each component; misfit: see `align`.
    """

    source: np.ndarray
    migrated: np.ndarray
    source_shares: np.ndarray
    migrated_shares: np.ndarray
    misfit: float


def principal_map(source: np.ndarray, migrated: np.ndarray) -> PrincipalMap:
    """Project source [n, d] and migrated [n, e] prompts to their first two principal components.

    This is exact: an eigendecomposition of the smaller of the two product matrices, with numpy.
    """
    first, source_shares = principal_plane(source)
    second, migrated_shares = principal_plane(migrated)
    aligned, misfit = align(second, first)
    return PrincipalMap(first, aligned, source_shares, migrated_shares, misfit)


def principal_plane(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first two principal components of rows [n, d], [n, 2], and their shares [2].

    Shares are of the variance. Missing components are 0. The sign of a component makes its weight
    of largest magnitude positive.
    """
    centred = np.asarray(values, np.float64) - np.mean(values, axis=0, dtype=np.float64)
    rows, columns = centred.shape
    wide = columns > rows
    squares, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    squares, vectors = np.maximum(squares[::-1][:2], 0), vectors[:, ::-1][:, :2]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
    points = vectors * np.sqrt(squares) if wide else centred @ vectors
    total = float((centred**2).sum())
    missing = 2 - points.shape[1]
    shares = squares / total if total else np.zeros_like(squares)
    return np.pad(points, ((0, 0), (0, missing))), np.pad(shares, (0, missing))


class OutOfSampleProjector:
    """Places users on an existing map of other users, from their prompts.

    A map of principal components is linear in the prompts, so it is extended exactly. On a UMAP a
    user is placed at the mean of the OUT_OF_SAMPLE_NEIGHBOURS nearest users of the map, weighted by
    1 / distance.
    """

    def __init__(
        self, prompts: np.ndarray, space: np.ndarray, points: np.ndarray, method: str
    ) -> None:
        """prompts [n, d], space [n, k] and points [n, 2] are those of the users on the map."""
        from sklearn.neighbors import KNeighborsRegressor

        self.mean = prompts.mean(axis=0, dtype=np.float64)
        points = np.asarray(points, np.float64)
        self.offset = points.mean(axis=0)
        target = space if method == "umap" else points - self.offset
        centred = prompts - self.mean
        # The normal equations: [d, d] rather than [n, d].
        self.weights = np.linalg.lstsq(centred.T @ centred, centred.T @ target, rcond=None)[0]
        self.nearest = None
        if method == "umap":
            self.nearest = KNeighborsRegressor(
                min(OUT_OF_SAMPLE_NEIGHBOURS, len(space)),
                weights=lambda distance: 1 / np.maximum(distance, 1e-9),
                algorithm="brute",
            ).fit(space, points)

    def __call__(self, prompts: np.ndarray) -> np.ndarray:
        """Return coordinates [m, 2] float32 for prompts [m, d]."""
        mapped = (prompts - self.mean) @ self.weights
        points = mapped + self.offset if self.nearest is None else self.nearest.predict(mapped)
        return np.asarray(points, np.float32)


class NearestCluster:
    """Assigns users to the cluster with the nearest mean.

    scikit-learn's NearestCentroid refuses a single cluster.
    """

    def __init__(self, prompts: np.ndarray, cluster: np.ndarray) -> None:
        """prompts [n, d] and labels [n] int define the means."""
        self.means = np.zeros((cluster.max() + 1, prompts.shape[1]))
        np.add.at(self.means, cluster, prompts)
        self.means /= np.bincount(cluster)[:, None]

    def __call__(self, prompts: np.ndarray) -> np.ndarray:
        """Return labels [m] int16 for prompts [m, d]."""
        distance = (self.means**2).sum(axis=1) - 2 * prompts @ self.means.T
        return distance.argmin(axis=1).astype(np.int16)


def check(method: str, clusters: int, neighbours: int) -> None:
    """Raise ConfigError for settings that no map can have."""
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}; choose {' or '.join(METHODS)}.")
    if clusters < 1 or neighbours < 2:
        raise ConfigError(
            f"A map has 1 cluster and 2 neighbours or more, not {clusters} and {neighbours}."
        )


def align(moved: np.ndarray, fixed: np.ndarray) -> tuple[np.ndarray, float]:
    """Align points [n, 2] to others by translation, rotation and reflection (Procrustes).

    Returns the aligned points, scaled to the spread of the fixed points, and the misfit in [0, 1]:
    the share of the fixed points' spread that the best aligned copy of any size does not explain.
    """
    from scipy.linalg import orthogonal_procrustes

    centre = fixed.mean(axis=0)
    a, b = moved - moved.mean(axis=0), fixed - centre
    spread, size = float((b**2).sum()), float((a**2).sum())
    if not spread or not size:
        return a + centre, 0.0 if spread == size else 1.0
    rotation, scale = orthogonal_procrustes(a, b)
    aligned = a @ rotation * np.sqrt(spread / size)
    return aligned + centre, max(0.0, 1 - float(scale) ** 2 / (spread * size))


def _trust(
    tables: list[np.ndarray], maps: list[np.ndarray], neighbours: int, seed: int
) -> dict[str, Any]:
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    n = len(maps[0])
    rows = np.random.default_rng(seed).choice(n, min(n, TRUST_SAMPLE), replace=False)
    k = min(neighbours, (len(rows) - 1) // 2)
    nearest = [
        NearestNeighbors(n_neighbors=k).fit(values[rows]).kneighbors(return_distance=False)
        for values in tables
    ]
    shared = [len(np.intersect1d(a, b)) for a, b in zip(*nearest, strict=True)]
    trust = [
        float(trustworthiness(values[rows], points[rows], n_neighbors=k))
        for values, points in zip(tables, maps, strict=True)
    ]
    return {
        "trust_source": trust[0],
        "trust_migrated": trust[1],
        "shared_neighbours": float(np.mean(shared)) / k,
        "trust_users": len(rows),
        "trust_neighbours": k,
    }
