"""Files from a browser: checked, kept in a temporary folder, and handed to the job that imports them."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import pyarrow.parquet as pq

from dashboard import engine
from puma_engine.datasets.reading.csv_tables import open_unpacked
from puma_engine.datasets.reading.parquet_files import unpacked_bytes
from puma_engine.errors import DataError, PumaError
from puma_engine.jobs import Job
from puma_engine.jobs.tidying import UPLOADS, remove_uploads

__all__ = ["remove_uploads"]

MAX_BYTES = 200 << 20
MAX_UNPACKED = 2 << 30
# Formats of arrays, whose sizes the engine checks before it reads them.
ARRAYS = (".safetensors", ".npz", ".npy")


@dataclass(frozen=True)
class UploadKind:
    """What a file may be.

    subject: begins a sentence, such as "A table is a file". command: imports a file without a browser.
    """

    subject: str
    endings: tuple[str, ...]
    command: str


class Upload:
    """A file from a browser in a temporary folder, until it is imported or dropped."""

    def __init__(self, name: str, stream: IO[bytes], size: int, kind: UploadKind) -> None:
        self.name = checked_name(name, kind)
        if size > MAX_BYTES:
            raise DataError(
                f"The file has {size:,} bytes; at most {MAX_BYTES:,} can be uploaded. Import it "
                f"with `{kind.command}` instead."
            )
        self._folder = TemporaryDirectory(prefix="puma-upload-")
        self.path = Path(self._folder.name) / self.name
        with self.path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        _check_unpacked_size(self.path, kind)

    def move(self, folder: Path) -> Path:
        """Move the file into a folder and return where it is."""
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(self.path, folder / self.name))


def checked_name(name: str, kind: UploadKind) -> str:
    """Return a safe file name with a suffix of the kind. Raises DataError for other suffixes."""
    base = name.replace("\\", "/").rpartition("/")[2]
    ending = next((end for end in reversed(kind.endings) if base.lower().endswith(end)), None)
    if ending is None:
        raise DataError(
            f"{kind.subject} that ends with {', '.join(kind.endings)}; this one is {base[-60:]!r}."
        )
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", base[: -len(ending)]).strip(".-")[:80]
    return f"{stem or 'table'}{ending}"


def _check_unpacked_size(path: Path, kind: UploadKind) -> None:
    """Raise DataError for a compressed file that is too large when unpacked."""
    total = 0
    if path.suffix == ".parquet":
        try:
            facts = pq.read_metadata(path)
        except Exception as error:  # whatever pyarrow makes of a file from outside
            text = "The file cannot be read as Parquet; check that it is complete."
            raise DataError(text) from error
        total = unpacked_bytes(facts)
    elif path.suffix not in ARRAYS:
        # A packed file is known by its content, whatever its name.
        with open_unpacked(path) as file:
            while total <= MAX_UNPACKED and (part := file.read(1 << 20)):
                total += len(part)
    if total > MAX_UNPACKED:
        raise DataError(
            f"The file unpacks to {total:,} bytes or more; at most {MAX_UNPACKED:,} are read from "
            f"a browser. Import it with `{kind.command}` instead."
        )


def queue_with_files(
    command: str, files: Mapping[str, Upload | None], arguments: Mapping[str, Any], title: str
) -> Job:
    """Move uploads into the workspace, and queue the command that imports them.

    files: uploads by the name of the command's argument; None: there is none.
    """
    ws = engine.workspace(create=True)
    remove_uploads(ws)
    folder = ws.root / UPLOADS / os.urandom(8).hex()
    uploads = {name: upload for name, upload in files.items() if upload is not None}
    try:
        paths = {name: upload.move(folder / name) for name, upload in uploads.items()}
        return engine.queue(command, {**arguments, **paths}, title)
    except (PumaError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise DataError(f"The file could not be stored ({error.strerror}).") from error
        raise
