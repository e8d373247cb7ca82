"""What every form of a prompt table comes down to, and the checks that hold for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.errors import DataError

HEAD = "head."


@dataclass(frozen=True)
class PromptFile:
    """Prompts outside any workspace: what is needed to import them, and their origin.

    vectors [n, l, d] float32, a row a user; head: tensors of the rating head, or None;
    complete: whether that head is one of ours, so that nothing has to be trained.
    """

    user_ids: list[str]
    vectors: np.ndarray
    head: dict[str, np.ndarray] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    complete: bool = False


def with_head(head: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Return a head's tensors under the names that they have in a prompt file."""
    return {HEAD + name: value for name, value in (head or {}).items()}


def head_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return the head among the tensors of a prompt file, or None."""
    head = {name.removeprefix(HEAD): v for name, v in arrays.items() if name.startswith(HEAD)}
    return head or None


def checked(
    path: Path,
    user_ids: Sequence[Any] | None,
    vectors: np.ndarray,
    *,
    tokens: int | None = None,
    head: dict[str, np.ndarray] | None = None,
    meta: dict[str, Any] | None = None,
    complete: bool = False,
) -> PromptFile:
    """Return a prompt file after every check. Raises DataError.

    vectors [n, l, d], or [n, l x d] with the number of soft tokens given (default: 1).
    """
    vectors = np.asarray(vectors)
    if vectors.dtype.kind not in "fiu" or vectors.ndim not in (2, 3):
        raise DataError(
            f"The prompts of {path} are {vectors.dtype} of shape {vectors.shape}; they must be numbers "
            "of shape [users, width] or [users, tokens, width]."
        )
    if vectors.ndim == 2:
        vectors = _apart(path, vectors, tokens or 1)
    elif tokens is not None and vectors.shape[1] != tokens:
        raise DataError(f"The prompts of {path} have {vectors.shape[1]} tokens, not {tokens}.")
    if user_ids is None:
        raise DataError(
            f"The file {path} says nothing of users; give their ids, in row order, with --users."
        )
    ids = [str(user) for user in user_ids]
    if len(ids) != len(vectors):
        raise DataError(
            f"The file {path} has {len(vectors):,} rows, but {len(ids):,} user ids came; they must "
            "belong to each other."
        )
    if len(set(ids)) != len(ids):
        twice = next(user for user in ids if ids.count(user) > 1)
        raise DataError(f"The user {twice!r} is twice in {path}; each user has one prompt.")
    whole = vectors.astype(np.float32)
    if not np.isfinite(whole).all():
        raise DataError(f"The prompts of {path} hold NaN or infinite values; export them again.")
    return PromptFile(ids, whole, head, meta or {}, complete)


def _apart(path: Path, flat: np.ndarray, tokens: int) -> np.ndarray:
    if tokens < 1 or flat.shape[1] % tokens:
        raise DataError(
            f"The prompts of {path} have {flat.shape[1]} numbers a user, which do not make {tokens} "
            "soft tokens; give another --tokens."
        )
    return flat.reshape(len(flat), tokens, -1)
