"""Read text files of any size, also gzip files, in blocks of whole lines."""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from puma_engine.errors import DataError

# Called with the name of the stage, the number of steps done, and of all steps; may raise to stop reading.
ReadProgress = Callable[[str, int, int], None]

BLOCK_BYTES = 1 << 23
MAX_LINE_BYTES = 1 << 28
OTHER_ENCODING = "not UTF-8, read as Windows-1252"
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class Block:
    """Some lines of a file, each ended by a newline; first: the number of the first, from 1."""

    data: bytes
    first: int

    def lines(self) -> Iterator[tuple[int, str, bool]]:
        """Yield the number and text of each line that is not blank, and whether it is UTF-8.

        Other lines are read as Windows-1252; callers count them as repaired.
        """
        try:
            texts = [(text, True) for text in self.data.decode("utf-8").split("\n")]
        except UnicodeDecodeError:
            texts = [decode_line(line) for line in self.data.split(b"\n")]
        for number, (text, is_utf8) in enumerate(texts, start=self.first):
            if text.strip(" \t\r\v\f"):
                yield number, text.rstrip("\r"), is_utf8


def read_blocks(
    path: Path, progress: ReadProgress | None = None, size: int = BLOCK_BYTES
) -> Iterator[Block]:
    """Yield a file in blocks of about `size` bytes without a UTF-8 byte-order mark.

    A gzip file is recognised by its first bytes. Raises DataError for a file that is missing,
    damaged, a truncated gzip file, or in UTF-16.
    """
    try:
        with open(path, "rb") as probe:
            packed = probe.read(2) == _GZIP
        total = path.stat().st_size
        with pa.OSFile(str(path)) as raw:
            stream = pa.CompressedInputStream(raw, "gzip") if packed else raw
            partial, number, at_start = b"", 1, True
            while piece := stream.read(size):
                if progress is not None:
                    progress(f"reading {path.name} (MiB)", raw.tell() >> 20, total >> 20)
                if at_start and piece.startswith(_UTF16):
                    raise DataError(f"{path} is UTF-16 text; save it as UTF-8.")
                data = partial + (piece.removeprefix(codecs.BOM_UTF8) if at_start else piece)
                at_start = False
                end = data.rfind(b"\n") + 1
                partial = data[end:]
                if len(partial) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path} has a line of more than {MAX_LINE_BYTES >> 20} MiB (line "
                        f"{number:,}); check that it is a text file with one record on each line."
                    )
                if end:
                    yield Block(data[:end], number)
                    number += data.count(b"\n", 0, end)
            if partial:
                yield Block(partial + b"\n", number)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read to its end ({str(error).splitlines()[0].rstrip('.')}); it may "
            "be damaged or cut short, so fetch it again."
        ) from error


def decode_line(line: bytes) -> tuple[str, bool]:
    """Return a line as text, and whether it was UTF-8; if not, it is read as Windows-1252."""
    for encoding in ("utf-8", "cp1252", "latin-1"):
        try:
            return line.decode(encoding), encoding == "utf-8"
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes every byte")
