"""Files that are whole or absent: atomic writes, safetensors with metadata, hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.errors import StoreError


def atomic_write(path: Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` fill a temporary file beside `path`, then move it there in one step.

    The data reach the disk before the name does. On any failure `path` stays as it was and
    nothing is left behind; a full disk, or a path that cannot be written, raises StoreError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if _is_full(error):
            raise StoreError(
                f"The disk that holds {path.parent} is full or at its limit, so {path.name} was not "
                "written; free some space and run the same command again."
            ) from error
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            reason = getattr(error, "strerror", None) or error
            raise StoreError(
                f"The file {path} cannot be written ({reason}); choose another path, or check who "
                "owns the folder."
            ) from error
        raise


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    text = str(error)
    return type(error).__name__ == "SafetensorError" and (
        "No space left" in text or "File too large" in text or "quota" in text
    )


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    atomic_write(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def save_tensors(path: Path, arrays: Mapping[str, np.ndarray], meta: Any = None) -> None:
    """Write arrays and JSON metadata to one safetensors file, atomically.

    A number without axes gets one, so that every array has rows.
    """
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = {"meta": json.dumps(meta, sort_keys=True)}
    atomic_write(path, lambda temporary: save_file(whole, temporary, metadata=header))


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Read arrays and metadata back; raises StoreError if the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get("meta", "null"))
    except FileNotFoundError:
        raise StoreError(f"There is no file {path}.") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise StoreError(
            f"The file {path} is damaged ({error}); restore it or make it again."
        ) from error
    return arrays, meta


_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool"},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


class TensorFile:
    """A safetensors file that is read in parts, so that memory is bounded by what is asked for.

    meta: the JSON metadata. Reading opens the file anew, so that threads may share one object.
    Raises StoreError if the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > path.stat().st_size:
                    raise ValueError("its header is cut off")
                self._places = json.loads(file.read(length))
            self.meta = json.loads(self._places.pop("__metadata__", {}).get("meta", "null"))
        except FileNotFoundError:
            raise StoreError(f"There is no file {path}.") from None
        except (ValueError, AttributeError, OSError) as error:
            raise StoreError(
                f"The file {path} is damaged ({error}); restore it or make it again."
            ) from error
        self._start = 8 + length

    def names(self) -> list[str]:
        """Return the names of the arrays."""
        return sorted(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return tuple(self._places[name]["shape"])

    def _dtype(self, name: str) -> np.dtype[Any]:
        stored = self._places[name]["dtype"]
        if stored not in _DTYPES:
            raise StoreError(
                f"{name!r} in {self.path} is stored as {stored}, which cannot be read in parts; "
                f"store it as one of {', '.join(_DTYPES)}."
            )
        return np.dtype(_DTYPES[stored])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read the rows [start, stop) of an array, all of them if not told otherwise."""
        place, shape = self._places[name], self.shape(name)
        dtype = self._dtype(name)
        rows = len(range(shape[0])[start:stop])
        each = int(np.prod(shape[1:], dtype=np.int64))
        offset = self._start + place["data_offsets"][0] + start * each * dtype.itemsize
        found = np.fromfile(self.path, dtype, rows * each, offset=offset)
        if len(found) != rows * each:
            raise StoreError(f"The file {self.path} is cut off; restore it or make it again.")
        return found.reshape(rows, *shape[1:])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Read some rows of an array, in the order that is asked for."""
        place, shape = self._places[name], self.shape(name)
        dtype = self._dtype(name)
        found = np.empty((len(rows), *shape[1:]), dtype)
        each = found[:1].nbytes
        with self.path.open("rb", buffering=0) as file:
            for number in np.argsort(rows, kind="stable"):
                file.seek(self._start + place["data_offsets"][0] + int(rows[number]) * each)
                if file.readinto(memoryview(found[number]).cast("B")) != each:
                    raise StoreError(
                        f"The file {self.path} is cut off; restore it or make it again."
                    )
        return found


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
