"""Read CSV files as columns of text; every unusable row is returned with its line.

pyarrow reads files without quoted values. The strict reader of the module csv reads files with
quoted values: a row with a stray quotation mark is one bad row, and reading continues in the next
line, so that the mark cannot swallow rows.
"""

import codecs
import csv
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from puma_engine.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t"}
# Files with these endings seldom quote values; their quotation marks are parts of titles.
UNQUOTED = (".tsv", ".inter", ".item")
NO_QUOTE = "none"
RAGGED = "without the header's number of fields"
STRAY_QUOTE = "with a stray quotation mark"
# Advice for callers that have the option `quote`, and for those that do not.
_QUOTE_HINTS = {
    True: "; if quotation marks are ordinary characters here, pass quote='none' (--quote none), and if a "
    "value really spans these lines, the mark itself",
    False: "; if quotation marks are ordinary characters here, write each twice and quote the value, or save "
    "the table as .parquet",
}
_CUT_HINTS = {
    True: "pass quote='none' (--quote none) if quotation marks are ordinary characters in it.",
    False: "save it as .parquet if quotation marks are ordinary characters in it.",
}
_SPELLED = {"\\t": "\t", "tab": "\t"}
_PIECE_BYTES = 1 << 20
_ROWS_PER_CHUNK = 1 << 16
# A row, long text included, must fit in a block.
_BLOCK_BYTES = 1 << 24
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# A long history may exceed the module's limit of 128 KiB for a value.
csv.field_size_limit(_BLOCK_BYTES)


@dataclass(frozen=True)
class CsvFormat:
    """The format of a CSV file; what is None is detected from the name, the first bytes and the header.

    delimiter: one character ("\\t" spelled out is a tab). encoding: a Python codec. quote: the
    character around quoted values, or "none" where no value is quoted. header: whether the first
    row names the columns; without one they are called 1, 2, 3. quote_option: whether the caller has
    an option for the quote, which messages then suggest.
    """

    delimiter: str | None = None
    encoding: str | None = None
    quote: str | None = None
    header: bool = True
    quote_option: bool = False


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: its line in the file if known, why, its text, and a remark."""

    line: int | None
    reason: str
    text: str
    remark: str = ""

    def __str__(self) -> str:
        where = "" if self.line is None else f"line {self.line:,}: "
        return f"{where}{self.text[:80]!r}{self.remark}"


@dataclass(frozen=True)
class CsvFile:
    """A CSV file whose format is known, and its column names.

    header_line: the line of the header, 0 without one. lenient: whether quoted values that look
    like swallowed rows are accepted, because the caller named the quote. newline: the character
    that ends a line. marks: whether there are quotation marks, or bare carriage returns, that
    pyarrow would misread. quote_option: see CsvFormat.
    """

    path: Path
    delimiter: str
    encoding: str
    quote: str | None
    lenient: bool
    newline: str
    marks: bool
    names: list[str]
    header_line: int
    quote_option: bool = False

    def read(self, columns: Sequence[int]) -> tuple[pa.Table, list[BadRow]]:
        """Return columns, by number, as text, and the rows that are left out. Raises DataError.

        The table's columns are named by their numbers.
        """
        if self.marks:
            return self._read_strictly(columns)
        bad: list[BadRow] = []

        def skip(row: pyarrow.csv.InvalidRow) -> str:
            bad.append(_ragged(None, row.text, row.actual_columns, len(self.names)))
            return "skip"

        names = [str(number) for number in columns]
        with _csv_errors(self.path, self.encoding), open_unpacked(self.path) as file:
            reader = pyarrow.csv.open_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False,
                    block_size=_BLOCK_BYTES,
                    encoding=self.encoding,
                    column_names=[str(number) for number in range(len(self.names))],
                    skip_rows=self.header_line,
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self.delimiter, quote_char=False, invalid_row_handler=skip
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=names,
                    column_types=dict.fromkeys(names, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            table = reader.read_all()
        return table, bad

    def head(self, rows: int) -> list[list[str]]:
        """Return the first usable rows, all columns. Raises DataError."""
        first: list[list[str]] = []
        for row in self._records():
            if not isinstance(row, BadRow):
                first.append(row)
                if len(first) == rows:
                    break
        return first

    def _read_strictly(self, columns: Sequence[int]) -> tuple[pa.Table, list[BadRow]]:
        bad: list[BadRow] = []
        chunks: list[list[pa.Array]] = [[] for _ in columns]
        rows: list[list[str]] = []

        def flush() -> None:
            for chunk, number in zip(chunks, columns, strict=True):
                chunk.append(pa.array([row[number] for row in rows], pa.string()))
            rows.clear()

        for row in self._records():
            if isinstance(row, BadRow):
                bad.append(row)
                continue
            rows.append(row)
            if len(rows) == _ROWS_PER_CHUNK:
                flush()
        flush()
        values = [pa.chunked_array(chunk, pa.string()) for chunk in chunks]
        return pa.table(values, names=[str(number) for number in columns]), bad

    def _records(self) -> Iterator[list[str] | BadRow]:
        """Yield the rows behind the header."""
        lines = self._lines()
        for row in _parsed(lines, self):
            if lines.first <= self.header_line:
                continue
            if isinstance(row, BadRow):
                yield row
            elif len(row) != len(self.names) and len(lines.row_lines) > 1 and not self.lenient:
                # The lines between two stray marks may be good rows.
                yield lines.reject()
            elif len(row) != len(self.names):
                text = "\n".join(lines.row_lines)
                yield _ragged(lines.first, text, len(row), len(self.names))
            elif len(lines.row_lines) > 1 and not self.lenient and self._swallowed(lines.row_lines):
                yield lines.reject()
            else:
                yield row

    def _lines(self) -> "_Lines":
        return _Lines(_lines(self.path, self.encoding, self.newline), self.quote_option)

    def _swallowed(self, lines: Sequence[str]) -> bool:
        """Return whether a row of several lines contains lines that look like rows.

        Such a line has as many fields as the header, and numbers in the columns in which the first
        line of the row has numbers.
        """
        numeric = [
            number
            for number, field in enumerate(lines[0].split(self.delimiter)[: len(self.names)])
            if _is_number(field)
        ]
        rows = [line.split(self.delimiter) for line in lines[1:]]
        return any(
            len(fields) == len(self.names) > 1
            and all(_is_number(fields[n].strip(self.quote)) for n in numeric)
            for fields in rows
        )


def open_csv(path: Path, csv_format: CsvFormat) -> CsvFile:
    """Detect the format of a CSV file, and read its header. Raises DataError.

    The whole file is decoded once, so that text in another encoding is refused with its line.
    """
    ending = next((end for end in DELIMITERS if plain_suffix(path) == end), None)
    delimiter = csv_format.delimiter or (DELIMITERS[ending] if ending else None)
    if delimiter is None:
        raise DataError(
            f"{path} has an unknown ending; a table must be a .parquet, .csv, .tsv, .inter or .jsonl "
            "file (all but the first may be .gz), or its delimiter must be named."
        )
    delimiter = _SPELLED.get(delimiter, delimiter)
    if len(delimiter) != 1:
        raise DataError(f"A delimiter must be one character, not {delimiter!r}.")
    quote = csv_format.quote
    if quote is not None and quote != NO_QUOTE and (len(quote) != 1 or quote in "\r\n" + delimiter):
        raise DataError(
            f"The quote must be one character other than the delimiter, or none, not {quote!r}."
        )
    encoding = csv_format.encoding or _encoding(path)
    has_mark = has_newline = False
    returns = pairs = 0
    last = ""
    for piece in _pieces(path, encoding):
        has_newline |= "\n" in piece
        has_mark |= (quote if quote and quote != NO_QUOTE else '"') in piece
        returns += piece.count("\r")
        pairs += (last + piece).count("\r\n")
        last = "\r" if piece.endswith("\r") else ""
    newline = "\n" if has_newline or not returns else "\r"
    file = CsvFile(
        path,
        delimiter,
        encoding,
        '"',
        quote not in (None, NO_QUOTE),
        newline,
        True,
        [],
        0,
        csv_format.quote_option,
    )
    if quote is None:
        # A file with quoted names has quoted values, whatever its ending.
        first = next(_lines(path, encoding, newline), "")
        quote = NO_QUOTE if ending in UNQUOTED and not first.startswith('"') else '"'
    file = replace(file, quote=None if quote == NO_QUOTE else quote)
    bare = newline == "\n" and returns > pairs
    file = replace(file, marks=bare or (has_mark and file.quote is not None))
    return _with_header(file, csv_format.header)


def _with_header(file: CsvFile, header: bool) -> CsvFile:
    lines = file._lines()
    row = next(_parsed(lines, file), None)
    if row is None:
        raise DataError(f"{file.path} is empty; a table needs a header and at least one row.")
    if isinstance(row, BadRow):
        raise DataError(f"The header of {file.path} cannot be read: {row.reason} ({row}).")
    if not header:
        return replace(file, names=[str(number + 1) for number in range(len(row))])
    return replace(file, names=row, header_line=lines.first + len(lines.row_lines) - 1)


def plain_suffix(path: Path) -> str:
    """Return the ending of a file's name in lower case, without .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


class _Lines:
    """The lines of a file for csv.reader; the lines of the last row can be put back.

    quote_option: see CsvFormat. row_lines: the lines of the row being read. first: the number of the
    first of them.
    """

    def __init__(self, lines: Iterator[str], quote_option: bool) -> None:
        self._lines = lines
        self._quote_option = quote_option
        self._returned: deque[str] = deque()
        self.row_lines: list[str] = []
        self.first = 1
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.row_lines.append(line)
        return line + "\n"

    def begin_row(self) -> None:
        self.first += len(self.row_lines)
        self.row_lines = []

    def reject(self) -> BadRow:
        """Return the first line of the row as a bad row, and put the others back."""
        self._returned.extendleft(reversed(self.row_lines[1:]))
        self.ended = False
        self.row_lines = self.row_lines[:1]
        return BadRow(
            self.first, STRAY_QUOTE, self.row_lines[0][:200], _QUOTE_HINTS[self._quote_option]
        )


def _parsed(lines: _Lines, file: CsvFile) -> Iterator[list[str] | BadRow]:
    """Yield each row that is not blank; lines.row_lines holds its lines until the next."""
    quote = file.quote
    reader_options: dict[str, Any] = (
        {"quoting": csv.QUOTE_NONE} if quote is None else {"quotechar": quote}
    )
    reader = csv.reader(lines, delimiter=file.delimiter, strict=True, **reader_options)
    while True:
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.ended:
                raise DataError(
                    f"{file.path} ends inside a quoted value that begins in line {lines.first:,} "
                    f"({lines.row_lines[0][:80]!r}); the file is cut short, or that quotation mark is a "
                    f"stray one. Fetch it again, correct it, or {_CUT_HINTS[file.quote_option]}"
                ) from error
            yield lines.reject()
            continue
        if row:
            yield row


def _lines(path: Path, encoding: str, newline: str) -> Iterator[str]:
    """Yield the lines of a file without their ends.

    A carriage return inside a line, which csv.reader refuses, becomes a vertical tab. It counts as
    a space in texts, and makes an id unusable.
    """
    partial = ""
    for piece in _pieces(path, encoding):
        *complete, partial = (partial + piece).split(newline)
        for line in complete:
            yield line.removesuffix("\r").replace("\r", "\v")
    if partial:
        yield partial.removesuffix("\r").replace("\r", "\v")


def _pieces(path: Path, encoding: str) -> Iterator[str]:
    """Yield the text of a file in pieces, without a byte-order mark. Raises DataError."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
    except LookupError as error:
        raise DataError(f"There is no text encoding named {encoding!r}.") from error
    line, at_start = 1, True
    with open_unpacked(path) as file:
        while True:
            data = file.read(_PIECE_BYTES)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeError as error:
                if isinstance(error, UnicodeDecodeError):
                    line += error.object.count(b"\n", 0, error.start)
                name = "UTF-8" if encoding == "utf8" else encoding
                raise DataError(
                    f"{path} is not {name} text (line {line:,}); save it as UTF-8, or name its "
                    "encoding, for example encoding='cp1252' (--encoding cp1252; --items-encoding for a "
                    "file of items)."
                ) from error
            if at_start and text:
                text, at_start = text.removeprefix("\ufeff"), False
            line += text.count("\n")
            if text:
                yield text
            if not data:
                return


def _encoding(path: Path) -> str:
    with open_unpacked(path) as file:
        return "utf-16" if file.read(2) in _UTF16 else "utf8"


@contextmanager
def open_unpacked(path: Path) -> Iterator[pa.NativeFile]:
    """Open a file to read its bytes, unpacking one that begins like gzip. Raises DataError."""
    try:
        with path.open("rb") as probe:
            packed = probe.read(2) == _GZIP
        with pa.input_stream(str(path), compression="gzip" if packed else None) as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}; check the path.") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({_first_line(error)}); it may be damaged or cut short."
        ) from error


@contextmanager
def _csv_errors(path: Path, encoding: str) -> Iterator[None]:
    """Context manager: turn errors of pyarrow.csv into DataError."""
    try:
        yield
    except ValueError as error:  # ArrowInvalid is a ValueError
        raise DataError(f"{path} cannot be read as CSV ({_first_line(error)}).") from error


def _ragged(line: int | None, text: str, actual: int, expected: int) -> BadRow:
    return BadRow(line, RAGGED, text[:200], f" has {actual} fields, not {expected}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
