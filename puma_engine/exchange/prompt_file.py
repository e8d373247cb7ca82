"""Prompts of a file in any format: their content, and the checks that all formats share."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from puma_engine.datasets.reading.column_values import MAX_ID_LENGTH, usable_ids
from puma_engine.datasets.reading.json_lines import without_surrogates
from puma_engine.errors import DataError
from puma_engine.files import load_tensors, save_tensors

HEAD = "head."
HEAD_FILE = "head.safetensors"
# What a row of a table belongs to.
Owner = Literal["user", "item"]
# The sum of squares of larger numbers overflows in 32 bits.
MAX_NUMBER = 1e17
_ID_OPTIONS: dict[Owner, str] = {"user": "--users", "item": "--item-ids"}


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file, ready to be imported.

    vectors: [n, l, d] float32, a row for each user; head: tensors of the task's head, or None;
    meta: the origin of the prompts; complete: whether they are an export of this program, so that
    nothing has to be trained.
    """

    user_ids: list[str]
    vectors: np.ndarray
    head: dict[str, np.ndarray] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    complete: bool = False


def with_head(head: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Return a head's tensors under their names in a prompt file."""
    return {HEAD + name: value for name, value in (head or {}).items()}


def head_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Return the head among the tensors of a prompt file, or None."""
    head = {name.removeprefix(HEAD): v for name, v in arrays.items() if name.startswith(HEAD)}
    return head or None


def write_head(folder: Path, head: dict[str, np.ndarray] | None) -> None:
    """Write a head as a file of its own in a folder, if there is one."""
    if head:
        save_tensors(folder / HEAD_FILE, with_head(head))


def read_head(folder: Path) -> dict[str, np.ndarray] | None:
    """Read the head of a folder, or return None. Raises StoreError."""
    file = folder / HEAD_FILE
    return head_of(load_tensors(file)[0]) if file.is_file() else None


def as_float32(path: Path | str, vectors: np.ndarray) -> np.ndarray:
    """Return prompts as float32, or raise DataError for NaN, infinite and far too large values."""
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32, copy=False)
    if not np.isfinite(vectors).all():
        raise DataError(f"The prompts of {path} hold NaN or infinite values; export them again.")
    largest = float(np.abs(vectors).max(initial=0))
    if largest > MAX_NUMBER:
        raise DataError(
            f"The prompts of {path} hold numbers up to {largest:.3g}; those above {MAX_NUMBER:g} "
            "overflow in every model and adapter. Export them again."
        )
    return vectors


def checked_ids(path: Path | str, ids: Sequence[Any], owner: Owner = "user") -> list[str]:
    """Return ids as text. Raises DataError, which names `path`, for an unusable id.

    An id is a text or a whole number of 1 to MAX_ID_LENGTH characters without control characters.
    """
    for id_ in ids:
        if not isinstance(id_, str | int) or isinstance(id_, bool):
            lost = ", which may have lost digits" if isinstance(id_, float) else ""
            shown = json.dumps(id_, default=repr)[:40]
            raise DataError(
                f"The {owner} ids of {path} cannot be used: a {owner} id must be text or a whole number, "
                f"not {shown}{lost}."
            )
    texts = [str(id_) for id_ in ids]
    try:
        column = pa.array(texts, pa.string())
    except UnicodeEncodeError:  # JSON may hold half of a surrogate pair
        column = pa.array(map(without_surrogates, texts), pa.string())
    unusable = np.flatnonzero(~usable_ids(column))
    if len(unusable):
        raise DataError(
            f"The file {path} has {len(unusable):,} rows without a usable {owner} id (one is "
            f"{texts[unusable[0]][:40]!r}); an id has 1 to {MAX_ID_LENGTH:,} characters, none of them "
            "a control character."
        )
    return texts


def checked(
    path: Path,
    user_ids: Sequence[Any] | None,
    vectors: np.ndarray,
    *,
    tokens: int | None = None,
    head: dict[str, np.ndarray] | None = None,
    meta: dict[str, Any] | None = None,
    complete: bool = False,
    owner: Owner = "user",
) -> PromptFile:
    """Return a prompt file after every check. Raises DataError, which names `path`.

    vectors [n, l, d], or [n, l x d] with the number of soft tokens (default: 1). owner: user or
    item.
    """
    vectors = np.asarray(vectors)
    if vectors.dtype.kind not in "fiu" or vectors.ndim not in (2, 3):
        raise DataError(
            f"The prompts of {path} are {vectors.dtype} of shape {vectors.shape}; they must be numbers "
            "of shape [users, width] or [users, tokens, width]."
        )
    if vectors.ndim == 2:
        tokens = tokens or 1
        if tokens < 1 or vectors.shape[1] % tokens:
            raise DataError(
                f"The prompts of {path} have {vectors.shape[1]} numbers for each user, which do not make "
                f"{tokens} soft tokens; give another --tokens."
            )
        vectors = vectors.reshape(len(vectors), tokens, -1)
    elif tokens is not None and vectors.shape[1] != tokens:
        raise DataError(f"The prompts of {path} have {vectors.shape[1]} tokens, not {tokens}.")
    if user_ids is None:
        raise DataError(
            f"The file {path} has no {owner} ids; give them, in row order, with {_ID_OPTIONS[owner]}."
        )
    ids = checked_ids(path, user_ids, owner)
    if len(ids) != len(vectors):
        raise DataError(
            f"The file {path} has {len(vectors):,} rows, but {len(ids):,} {owner} ids were given; give one "
            "for each row."
        )
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        noun = "prompt" if owner == "user" else "vector"
        raise DataError(
            f"The {owner} {twice!r} occurs twice in {path}; each {owner} has one {noun}."
        )
    vectors = as_float32(path, vectors)
    for name, value in (head or {}).items():
        if not np.isfinite(value).all():
            raise DataError(
                f"The tensor {name!r} of the head of {path} holds NaN or infinite values; export it "
                "again."
            )
    return PromptFile(ids, vectors, head, meta or {}, complete)
