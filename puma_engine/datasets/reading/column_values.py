"""Convert a column of a file to ids, outcomes, texts or histories.

Each function takes one column, returns plain arrays, and marks unusable values instead of guessing;
the caller decides whether they are an error.
"""

import ast
import contextlib
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from puma_engine.datasets.reading.text_cleaning import clean_text
from puma_engine.errors import DataError

# A longer value is no id but a text; a million of them would not fit in memory.
MAX_ID_LENGTH = 1000
# From this number on, by the bits of a float, two whole numbers may have the same float.
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}
_ROUNDED = r"^[0-9][.,][0-9]+[eE]\+[0-9]+$"
_WORDS = {"true": 1.0, "false": 0.0}
# Python and NumPy write lists of quoted texts; NumPy puts no comma between them.
_LIST_ITEM = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|[^\s,'"\[\](){}]+""")


@dataclass(frozen=True)
class EncodedTexts:
    """A column of texts as codes [n] into unique texts; "" stands for a missing value."""

    codes: np.ndarray
    unique: list[str]


def as_texts(column: pa.ChunkedArray, label: str) -> EncodedTexts:
    """Read text or whole numbers exactly as written.

    Raises DataError for other types, and for whole numbers stored as floats that are too large
    to be told apart.
    """
    if not (pa.types.is_dictionary(column.type) or is_text(column.type)):
        column = _whole_numbers(column, label).dictionary_encode()
    if not pa.types.is_dictionary(column.type):
        codes, unique = pd.factorize(texts_of(_decoded(column, label)))
        return EncodedTexts(codes, unique.tolist())
    # Each value of a dictionary is decoded once.
    column = column.unify_dictionaries()
    if not column.num_chunks:
        return EncodedTexts(np.zeros(0, np.int64), [])
    values = pa.chunked_array([column.chunk(0).dictionary])
    if not is_text(values.type):
        values = _whole_numbers(values, label)
    # The last code stands for a missing value.
    texts = np.append(texts_of(_decoded(values, label)), "")
    missing = len(texts) - 1
    index = np.concatenate(
        [
            pc.fill_null(chunk.indices.cast(pa.int64()), missing).to_numpy(zero_copy_only=False)
            for chunk in column.chunks
        ]
    )
    used, codes = np.unique(index, return_inverse=True)
    of_used, unique = pd.factorize(texts[used])
    return EncodedTexts(of_used[codes], unique.tolist())


def _whole_numbers(column: pa.ChunkedArray, label: str) -> pa.ChunkedArray:
    """Return whole numbers stored as floats as integers, and integers as they are."""
    kind = column.type
    if pa.types.is_null(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_floating(kind):
        # A column of whole numbers with missing values is read as floats; 12.0 was 12.
        finite = pc.cast(
            pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind)), pa.float64()
        )
        limit, largest = _EXACT[kind.bit_width], pc.max(pc.abs(finite)).as_py() or 0
        if largest >= limit:
            raise DataError(
                f"The column of {label} holds whole numbers up to {largest:.0f} as "
                f"{kind.bit_width}-bit floats, which cannot tell whole numbers from {limit:,} on "
                "apart: several ids have become one. Write them again, as text or 64-bit integers."
            )
        try:
            return pc.cast(finite, pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"The column of {label} holds fractions; it must hold text or whole numbers."
            ) from error
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return column
    raise DataError(
        f"The column of {label} has the type {kind}; it must hold text or whole numbers."
    )


def _decoded(column: pa.ChunkedArray, label: str) -> pa.ChunkedArray:
    try:
        if column.type == pa.binary_view():
            column = pc.cast(column, pa.binary())
        return pc.cast(column, pa.string())
    except pa.ArrowInvalid as error:
        raise DataError(f"The column of {label} does not hold UTF-8 text.") from error


def as_ids(column: pa.ChunkedArray, label: str) -> EncodedTexts:
    """Read ids like as_texts. Also raises DataError if most were rounded by a spreadsheet: 1.23E+18."""
    ids = as_texts(column, label)
    rounded = [text for text in ids.unique if re.match(_ROUNDED, text.strip())]
    if 2 * len(rounded) > len(ids.unique):
        raise DataError(
            f"The column of {label} holds rounded numbers such as {rounded[0]!r}: several ids have "
            "become one. Write them again with all digits, as text."
        )
    return ids


def texts_of(column: pa.ChunkedArray) -> np.ndarray:
    """Return a text column as an array of str, "" where it is null, [n] object."""
    return pc.fill_null(column, "").to_numpy(zero_copy_only=False)


def usable_ids(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return which ids are usable, [n] bool: not missing, blank or too long, without control characters."""
    text = pc.fill_null(column, "")
    blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    long = pc.greater(pc.utf8_length(text), MAX_ID_LENGTH)
    unusable = pc.or_(pc.or_(blank, long), pc.match_substring_regex(text, r"\p{Cc}"))
    return np.asarray(pc.invert(unusable).to_numpy(zero_copy_only=False), dtype=bool)


def plain_id(text: str) -> str:
    """Return an id without additions of programs: spaces, quotes, .0 behind a number, decomposed letters."""
    text = unicodedata.normalize("NFC", text).strip(" \t\u00a0\"'")
    return re.sub(r"^([0-9]+)\.0$", r"\1", text)


def usable_texts(column: pa.ChunkedArray) -> np.ndarray:
    """Return which texts are not empty after cleaning, [n] bool."""
    text = pc.fill_null(column, "")
    usable = np.array(pc.match_substring_regex(text, "[0-9A-Za-z]").to_numpy(), dtype=bool)
    for row in np.flatnonzero(~usable):
        usable[row] = bool(clean_text(text[int(row)].as_py()))
    return usable


@dataclass(frozen=True)
class ItemTexts:
    """The texts of items. first: by code, the first text that is not empty after cleaning.

    Items without a text are absent. several: codes of items, sorted. repeated: how many items have
    text in more than one row.
    """

    first: dict[int, str]
    several: np.ndarray
    repeated: int


def item_texts(item: np.ndarray, texts: EncodedTexts) -> ItemTexts:
    """Return the texts of items; item: [n] codes; texts: the same rows."""
    # Codes are compared instead of texts, since a column of texts would repeat each one.
    code, clean = pd.factorize(np.array([clean_text(text) for text in texts.unique], dtype=object))
    rows = pd.DataFrame({"item": item, "text": code[texts.codes]})
    rows = rows[clean[rows["text"]] != ""]
    repeated = int((rows["item"].value_counts() > 1).sum())
    rows = rows.drop_duplicates()
    first = rows.drop_duplicates("item")
    count = rows["item"].value_counts()
    several = np.sort(count.index[count > 1].to_numpy())
    by_item = dict(zip(first["item"].tolist(), clean[first["text"]].tolist(), strict=True))
    return ItemTexts(by_item, several, repeated)


def as_numbers(column: pa.ChunkedArray, label: str) -> np.ndarray:
    """Read real numbers, [n] float64; missing values and texts that are no numbers become NaN.

    True and false, as values or words, count as 1 and 0. Raises DataError for other types.
    """
    kind = value_type(column)
    if is_text(kind) or pa.types.is_null(kind):
        texts = as_texts(column, label)
        return np.array([_number(text) for text in texts.unique], dtype=np.float64)[texts.codes]
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, kind)
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"The column of {label} has the type {kind}; it must hold numbers.")
    return pc.fill_null(pc.cast(column, pa.float64(), safe=False), math.nan).to_numpy()


def as_histories(column: pa.ChunkedArray, separator: str) -> tuple[list[list[str]], np.ndarray]:
    """Read lists of item ids, and which rows are usable, [n] bool; missing means none.

    Texts are ids joined by the separator, or lists as Python, JSON or NumPy write them. Lists of
    equal texts are one object. Raises DataError for other types.
    """
    kind = value_type(column)
    if any(
        is_list(kind)
        for is_list in (
            *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
            *(pa.types.is_list_view, pa.types.is_large_list_view),
        )
    ):
        flat = as_ids(pc.list_flatten(column), "histories")
        ids = np.array(flat.unique, dtype=object)[flat.codes].tolist()
        sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        offsets = np.cumsum(sizes).tolist()
        rows = [
            [item for item in ids[end - size : end] if item]
            for end, size in zip(offsets, sizes.tolist(), strict=True)
        ]
        return rows, np.ones(len(rows), dtype=bool)
    texts = as_texts(column, "histories")
    parts = [_history(text, separator) for text in texts.unique]
    usable = np.array([part is not None for part in parts], dtype=bool)
    # Rows with one text share a list.
    return [parts[code] or [] for code in texts.codes.tolist()], usable[texts.codes]


def _history(text: str, separator: str) -> list[str] | None:
    """Return the ids of a history written as text, or None for a list that cannot be read."""
    text = text.strip()
    if not (text[:1] in "[(" and text[-1:] in "])" and text):
        return [part for part in text.split(separator) if part]
    with contextlib.suppress(ValueError, RecursionError):
        items = json.loads(text)
        return [str(item) for item in items] if all(map(_is_id, items)) else None
    ids: list[str] = []
    end = 1
    for match in _LIST_ITEM.finditer(text, 1, len(text) - 1):
        gap = text[end : match.start()]
        if gap.strip() not in ("", ",") or (ids and not gap) or match[0] == "...":
            return None
        item = match[0]
        if item[0] in "'\"":
            try:
                item = str(ast.literal_eval(item))
            except (ValueError, SyntaxError):  # a control character, or a broken escape
                return None
        ids.append(item)
        end = match.end()
    return None if text[end:-1].strip() not in ("", ",") else ids


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def value_type(column: pa.ChunkedArray) -> pa.DataType:
    """Return the type of a column's values; for a dictionary, of its entries."""
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text, or bytes that may be text."""
    return kind in (
        *(pa.string(), pa.large_string(), pa.string_view()),
        *(pa.binary(), pa.large_binary(), pa.binary_view()),
    )


def _number(text: str) -> float:
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return math.nan if "_" in word else float(word)
    except ValueError:
        return math.nan
