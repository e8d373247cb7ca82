"""Large text files, packed or not, in blocks of whole lines."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from puma_engine.errors import DataError

# Called with what is done, and how much of how much is; may raise to stop the reading.
ReadProgress = Callable[[str, int, int], None]

BLOCK_BYTES = 1 << 23
LONGEST_LINE = 1 << 28
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Block:
    """Some lines of a file, each ended by a newline; first: the number of the first, from 1."""

    data: bytes
    first: int

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and content of each line that is not blank."""
        for number, line in enumerate(self.data.split(b"\n"), start=self.first):
            if line.strip():
                yield number, line.rstrip(b"\r")


def read_blocks(
    path: Path, progress: ReadProgress | None = None, size: int = BLOCK_BYTES
) -> Iterator[Block]:
    """Yield a file in blocks of about `size` bytes, gzip packed or not, without a UTF-8 mark.

    Whether a file is packed is seen from its first bytes. Raises DataError for a file that
    is missing, damaged, cut short while packed, or in UTF-16.
    """
    try:
        with open(path, "rb") as probe:
            packed = probe.read(2) == _GZIP
        total = path.stat().st_size
        with pa.OSFile(str(path)) as raw:
            stream = pa.CompressedInputStream(raw, "gzip") if packed else raw
            yield from _blocks(path, stream, size, lambda: _told(progress, path, raw.tell(), total))
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read to its end ({str(error).splitlines()[0].rstrip('.')}); it may "
            "be damaged or cut short, so fetch it again."
        ) from error
    _told(progress, path, total, total)


def decoded(line: bytes) -> tuple[str, bool]:
    """Return a line as text, and whether it was UTF-8; if not, it is read as Windows-1252."""
    try:
        return line.decode("utf-8"), True
    except UnicodeDecodeError:
        pass
    try:
        return line.decode("cp1252"), False
    except UnicodeDecodeError:
        return line.decode("latin-1"), False


def _blocks(
    path: Path, stream: pa.NativeFile, size: int, told: Callable[[], None]
) -> Iterator[Block]:
    rest, number, start = b"", 1, True
    while piece := stream.read(size):
        told()
        if start and piece.startswith(_UTF16):
            raise DataError(f"{path} is UTF-16 text; save it as UTF-8.")
        data = rest + (piece.removeprefix(codecs.BOM_UTF8) if start else piece)
        start = False
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if len(rest) > LONGEST_LINE:
            raise DataError(
                f"{path} has a line of more than {LONGEST_LINE >> 20} MiB (line {number:,}); check "
                "that it is a text file with one record a line."
            )
        if end:
            yield Block(data[:end], number)
            number += data.count(b"\n", 0, end)
    if rest:
        yield Block(rest + b"\n", number)


def _told(progress: ReadProgress | None, path: Path, done: int, total: int) -> None:
    if progress is not None:
        progress(f"reading {path.name} (MiB)", done >> 20, total >> 20)
