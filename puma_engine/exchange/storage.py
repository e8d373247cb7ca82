"""Folders of shards: on a disk, or on shared or object storage by fsspec.

A file of storage is copied to a scratch folder to be read, and copied back as a whole when written,
so that readers and writers only handle local files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from puma_engine.errors import ConfigError, MigrationError, StoreError
from puma_engine.files import atomic_write, make_folder
from puma_engine.store import locks, scratch

INSTALL = "pip install 'puma-workbench[object-storage]'"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# On these a file appears only when it is complete; on others it is renamed when it is.
_OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "memory"}
# Names of attributes that change with the content of a file, the most reliable first.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified"),
    *("updated", "modificationTime", "created"),
)
CLAIM = "stream.json"


@dataclass(frozen=True)
class Entry:
    """A file of a folder. version: a text that changes with its content."""

    name: str
    version: str


class DiskFolder:
    """A folder of this machine, or of a network file system that is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def location(self) -> str:
        """The path or URL by which another process opens it."""
        return str(self.path.resolve())

    def entries(self) -> dict[str, Entry]:
        """Return the files, by name."""
        entries = {}
        for file in sorted(self.path.iterdir()) if self.path.is_dir() else []:
            if file.is_file():
                stat = file.stat()
                entries[file.name] = Entry(file.name, f"{stat.st_size}:{stat.st_mtime_ns}")
        return entries

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Yield the path of a file on this machine."""
        yield self.path / name

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read parts of it. Raises StoreError."""
        try:
            return (self.path / name).open("rb")
        except OSError as error:
            raise StoreError(
                f"The file {self.path / name} cannot be read ({error.strerror})."
            ) from error

    def write(self, name: str, writer: Callable[[Path], object]) -> None:
        """Write a file with `writer`; it gets its name when it is complete. Raises StoreError."""
        atomic_write(self.path / name, writer)

    @contextlib.contextmanager
    def claimed(self, identity: str) -> Iterator[None]:
        """Context manager: lock the folder. Raises MigrationError if another process has the lock."""
        make_folder(self.path)
        with locks.folder_lock(self.path) as alone:
            if not alone:
                raise MigrationError(
                    f"Another process writes to the folder {self.path}; wait for it to end, or give another."
                )
            self._remove_unfinished()
            try:
                yield
            finally:
                # Left by processes on other machines that ended.
                self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Remove unfinished files of killed processes."""
        for file in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                file.unlink()


class StorageFolder:
    """A folder of shared or object storage, by its URL. Raises ConfigError, StoreError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.password is not None or parts.query or parts.fragment:
            raise ConfigError(
                f"A URL of {parts.scheme}:// with a password or a query came; credentials come from the "
                "environment or from the storage's own configuration file, and URLs are logged."
            )
        if ".." in unquote(parts.path).split("/"):
            raise ConfigError(f"The URL {url} has the part '..'; name the folder itself.")
        self.url = url.rstrip("/")
        self.scheme = parts.scheme
        import fsspec

        try:
            with self._errors("", "opened"):
                self._fs, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ConfigError(
                f"{self.url} needs a package that is not installed ({_reason(error)}); run `{INSTALL}`."
            ) from None
        self._root = str(path).rstrip("/")

    def __str__(self) -> str:
        return self.url

    @property
    def location(self) -> str:
        """The path or URL by which another process opens it."""
        return self.url

    def entries(self) -> dict[str, Entry]:
        """Return the files, by name."""
        entries = {}
        with self._errors("", "listed"):
            self._fs.invalidate_cache()
            try:
                listed = self._fs.ls(self._root, detail=True)
            except FileNotFoundError:
                listed = []
        for info in listed:
            name = str(info["name"]).rstrip("/").rpartition("/")[2]
            if info["type"] == "file" and name:
                known = [str(info[key]) for key in _VERSIONS if info.get(key) is not None]
                # Without such an attribute a change cannot be noticed, so the file is processed again.
                version = known[0].strip('"') if known else secrets.token_hex(8)
                entries[name] = Entry(name, f"{info['size']}:{version}")
        return dict(sorted(entries.items()))

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Yield the path of a copy of a file, which is removed afterwards."""
        with self.scratch_file(name) as local:
            with self._errors(name, "read"):
                self._fs.get_file(self._path(name), str(local))
            yield local

    def open(self, name: str) -> IO[bytes]:
        """Open a file to read parts of it. Raises StoreError."""
        with self._errors(name, "read"):
            file: IO[bytes] = self._fs.open(self._path(name), "rb", block_size=1 << 20)
            return file

    def write(self, name: str, writer: Callable[[Path], object]) -> None:
        """Write a file with `writer`; it gets its name when it is complete. Raises StoreError."""
        path, atomic = self._path(name), self.scheme in _OBJECTS
        sent = path if atomic else self._path(f".{name}.{secrets.token_hex(4)}.tmp")
        with self.scratch_file(name) as local:
            atomic_write(local, writer)
            size = local.stat().st_size
            with self._errors(name, "written"):
                self._fs.put_file(str(local), sent)
                if not atomic:
                    self._fs.mv(sent, path)
                self._fs.invalidate_cache()
                arrived = int(self._fs.info(path)["size"])
        if arrived != size:
            raise StoreError(
                f"The file {self.url}/{name} has {arrived:,} bytes of {size:,}; run the command again."
            )

    @contextlib.contextmanager
    def scratch_file(self, name: str) -> Iterator[Path]:
        """Yield a path on this machine for a file, which is removed afterwards."""
        local = _scratch_folder() / f"{secrets.token_hex(4)}.{name}"
        try:
            yield local
        finally:
            local.unlink(missing_ok=True)

    @contextlib.contextmanager
    def claimed(self, identity: str) -> Iterator[None]:
        """Context manager: write a file with the identity of the writer; storage has no locks.

        Processes with the same identity may write meanwhile, since they write the same content.
        Raises StoreError; MigrationError for another identity.
        """
        text = json.dumps({"made_by": identity}).encode()
        with self._errors(CLAIM, "written"):
            if self.scheme not in _OBJECTS:
                self._fs.makedirs(self._root, exist_ok=True)
            if not self._fs.exists(self._path(CLAIM)):
                self._create(self._path(CLAIM), text)
            claim = self._fs.cat_file(self._path(CLAIM))
        if claim != text:
            raise MigrationError(
                f"The folder {self.url} is of other work ({CLAIM}), such as that of another adapter; give a "
                "folder of its own to each."
            )
        try:
            yield
        finally:
            with contextlib.suppress(StoreError):
                self._remove_unfinished()

    def _create(self, path: str, content: bytes) -> None:
        """Create a file unless it exists, atomically if the storage supports that."""
        try:
            self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return
        except (ValueError, TypeError, NotImplementedError):
            self._fs.pipe_file(path, content)

    def _remove_unfinished(self) -> None:
        for name in self.entries():
            if name.startswith(".") and name.endswith(".tmp"):
                with self._errors(name, "removed"):
                    self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _errors(self, name: str, action: str) -> Iterator[None]:
        try:
            yield
        except (ImportError, StoreError):
            raise
        except Exception as error:  # each kind of storage raises its own errors
            place = f"{self.url}/{name}" if name else self.url
            raise StoreError(
                f"{place} cannot be {action} ({_reason(error)}); check that it exists, and that the "
                "credentials in the environment allow it."
            ) from None


Folder = DiskFolder | StorageFolder


def folder_of(location: str | Path) -> Folder:
    """Return the folder at a path or a URL. Raises ConfigError, StoreError."""
    if not isinstance(location, str) or not _URL.match(location):
        return DiskFolder(Path(location))
    parts = urlsplit(location)
    if parts.scheme not in ("file", "local"):
        return StorageFolder(location)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or ".." in path.split("/"):
        raise ConfigError(
            f"{location} is not a folder of this machine; write file:///FOLDER without '..'."
        )
    return DiskFolder(Path(path))


def refuse_unseen(folder: Folder, name: str) -> None:
    """Raise MigrationError for a file that this machine does not have, in a folder on disk."""
    if isinstance(folder, DiskFolder) and not (folder.path / name).exists():
        raise MigrationError(
            f"The node {socket.gethostname()} does not see {folder.path / name}; give folders on storage that "
            "all nodes of the cluster share, under the same path, or URLs such as s3://."
        )


def put_files(source: Path, target: Folder) -> None:
    """Copy the files of a folder of this machine. Raises StoreError."""
    for file in sorted(source.iterdir()):
        target.write(file.name, functools.partial(shutil.copyfile, file))


@functools.cache
def _scratch_folder() -> Path:
    return scratch.scratch_folder()


def _reason(error: BaseException) -> str:
    """Return the text of a storage error in one line, without signatures of URLs."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\?[^\s\"']+", "?...", text)[:300].rstrip(".")
