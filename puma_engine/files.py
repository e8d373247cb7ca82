"""Atomic writes of files and folders, safetensors with metadata, and hashes."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from puma_engine.errors import StoreError


def atomic_write(path: Path, writer: Callable[[Path], object]) -> None:
    """Write a temporary file beside `path` with `writer`, then rename it to `path`.

    The data are synced to disk before the rename. On any failure `path` is unchanged and no
    temporary file remains. Raises StoreError for a full disk or a path that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        make_folder(path.parent)
        writer(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        from_library = isinstance(error, SafetensorError)
        texts = ("No space left", "File too large", "quota") if from_library else ()
        numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if getattr(error, "errno", None) in numbers or any(text in str(error) for text in texts):
            raise StoreError(
                f"The disk that holds {path.parent} is full or at its limit, so {path.name} was not "
                "written; free some space and run the same command again."
            ) from error
        if from_library or isinstance(error, OSError):
            reason = getattr(error, "strerror", None) or error
            raise StoreError(
                f"The file {path} cannot be written ({reason}); choose another path, or check who "
                "owns the folder."
            ) from error
        raise


def sync(path: Path) -> None:
    """Sync the content of a file, or the names in a folder, to disk.

    Failure is ignored for a folder. Raises OSError for a file.
    """
    with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder and its parents unless it exists, and sync their names to disk.

    Otherwise a power loss could remove the folder with synced files in it. mode: of the innermost
    folder.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode, parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def sync_tree(folder: Path) -> None:
    """Sync everything in a folder to disk, before a rename makes it valid."""
    for path in folder.rglob("*"):
        if path.is_dir() or path.is_file():
            sync(path)
    sync(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically. Raises StoreError."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Raises StoreError."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Context manager: a temporary folder that is renamed to `path` in the end. Raises StoreError if it exists.

    Its content is synced to disk before the rename.
    """
    if path.exists():
        raise StoreError(f"There is already something at {path}; give a folder that is not there.")
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        temporary.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for invalid JSON, or JSON that is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML. Raises ValueError for invalid TOML, or TOML that is nested too deep."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: Path, remedy: str = "restore it, or make it again") -> dict[str, Any]:
    """Read an object from a JSON file. Raises StoreError; remedy: the advice in its message."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"There is no file {path}; {remedy}.") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"The file {path} is not valid JSON ({error}); {remedy}.") from error
    if not isinstance(value, dict):
        raise StoreError(f"The file {path} holds no JSON object; {remedy}.")
    return value


def save_tensors(path: Path, arrays: Mapping[str, np.ndarray], meta: Any = None) -> None:
    """Write arrays and JSON metadata to one safetensors file, atomically.

    A scalar is stored with one axis, so that every array has rows. Raises StoreError.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = {"meta": json.dumps(meta, sort_keys=True)}
    atomic_write(path, lambda temporary: save_file(contiguous, temporary, metadata=header))


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], Any]:
    """Read all arrays and the JSON metadata of a safetensors file.

    Types that NumPy lacks, such as bfloat16, become float32. Raises StoreError if the file is
    missing or damaged.
    """
    file = TensorFile(path)
    return {name: file.read(name) for name in file.names()}, file.meta


_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BOOL": "bool"},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
# After so many single rows a file is mapped anew, which frees the pages of earlier rows.
_ROWS_PER_MAPPING = 256


class TensorFile:
    """A safetensors file that is read in parts, so that memory is limited to the requested rows.

    Each read maps the file anew, so threads may share one object, and the pages of a read are
    released after it. Types that NumPy lacks, such as bfloat16, become float32. Raises StoreError
    if the file is missing, or if its header does not describe its content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            self._shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            self._types = {name: str(part.get_dtype()) for name, part in slices.items()}

    @contextlib.contextmanager
    def _open(self, name: str | None = None) -> Iterator[Any]:
        """Open the file; with PyTorch if NumPy lacks the type of the array `name`."""
        framework = "np" if name is None or self._types[name] in _DTYPES else "pt"
        try:
            with safe_open(self.path, framework=framework) as file:
                yield file
        except FileNotFoundError:
            raise StoreError(f"There is no file {self.path}.") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise StoreError(
                f"The file {self.path} is damaged ({error}); restore it or make it again."
            ) from error

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the header, as texts."""
        with self._open() as file:
            return file.metadata() or {}

    @functools.cached_property
    def meta(self) -> Any:
        """The JSON value that `save_tensors` stored, or None. Raises StoreError for invalid JSON."""
        try:
            return parse_json(self.metadata().get("meta", "null"))
        except ValueError as error:
            raise StoreError(
                f"The metadata of {self.path} is no JSON ({error}); restore it or make it again."
            ) from error

    def names(self) -> list[str]:
        """Return the names of the arrays."""
        return sorted(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return self._shapes[name]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read the rows [start, stop) of an array (default: all)."""
        shape = self._shapes[name]
        with self._open(name) as file:
            if start == 0 and (stop is None or stop >= shape[0]):
                return _as_numpy(file.get_tensor(name))
            stop = shape[0] if stop is None else min(stop, shape[0])
            return _as_numpy(file.get_slice(name)[start:stop])

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Read some rows of an array [n, ...], by number, in the order of `rows`."""
        dtype = _DTYPES.get(self._types[name], "float32")
        values = np.empty((len(rows), *self._shapes[name][1:]), dtype)
        order = np.argsort(rows, kind="stable")
        for first in range(0, len(rows), _ROWS_PER_MAPPING):
            with self._open(name) as file:
                part = file.get_slice(name)
                for number in order[first : first + _ROWS_PER_MAPPING]:
                    row = int(rows[number])
                    values[number] = _as_numpy(part[row : row + 1])[0]
        return values


def _as_numpy(value: Any) -> np.ndarray:
    array: np.ndarray = value if isinstance(value, np.ndarray) else value.float().numpy()
    return array


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
