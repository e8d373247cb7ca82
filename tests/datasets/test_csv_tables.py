"""CSV files: stray quotation marks drop one row, and the two readers agree."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rating_tables import EACH, USERS, frame, read, save

from puma_engine.datasets import check_table, preview_table
from puma_engine.datasets.reading.csv_tables import CsvFormat, open_csv
from puma_engine.datasets.reading.delimited import read_columns
from puma_engine.errors import DataError

HEADER = ["user_id", "item_id", "outcome", "text"]
ROWS = [
    ["u1", "i1", "5", "Plain"],
    ["u1", "i2", "4", '"Weird Al live'],
    ["u1", "i3", "3", "Foo"],
    ["u2", "i4", "2", "Bar"],
    ["u2", "i5", "1", '12" vinyl'],
    ["u2", "i6", "4", 'End"'],
    ["u3", "i1", "5", "Plain"],
]


def write(path: Path, separator: str, rows: list[list[str]]) -> Path:
    path.write_text("".join(separator.join(row) + "\n" for row in [HEADER, *rows]))
    return path


def titles(path: Path, **options: object) -> dict[str, str]:
    ds = read(path, **options)
    return dict(zip(ds.items["item_id"], ds.items["text"], strict=True))


def test_quotation_marks_are_ordinary_characters_in_tsv_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "\t", ROWS)
    assert titles(path) == {row[1]: row[3] for row in ROWS}
    assert len(read(path).interactions) == 7
    quoted = [['"u1"', '"i1"', "5", '"""Best"" of"']]
    path.write_text('"user_id"\t"item_id"\toutcome\ttext\n' + "\t".join(quoted[0]) + "\n")
    assert titles(path) == {"i1": '"Best" of'}
    path = write(tmp_path / "b.tsv", "\t", [["u1", "i1", "5", '"Heroes"']])
    assert titles(path) == {"i1": '"Heroes"'}
    assert "begin and end with a quotation mark" in read(path).report["warnings"][0]
    assert titles(path, quote='"') == {"i1": "Heroes"}


def test_a_stray_quotation_mark_drops_only_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",", ROWS)
    with pytest.raises(DataError, match=r"1 of 7 rows .*1 with a stray quotation mark \(line 3: "):
        read(path)
    dropped = read(path, drop_invalid=True).report["dropped"]
    assert dropped["with a stray quotation mark"] == 1
    expected = {row[1]: row[3] for row in ROWS if row[1] != "i2"}
    assert titles(path, drop_invalid=True) == expected
    assert titles(path, quote="none") == {row[1]: row[3] for row in ROWS}
    other_rows = [row for row in ROWS if row[1] != "i5"]
    path = write(tmp_path / "b.csv", ",", other_rows)
    with pytest.raises(DataError, match=r"1 of 6 rows .*1 with a stray quotation mark \(line 3: "):
        read(path)
    # With an explicit quote it is one value of four lines.
    assert len(read(path, quote='"').interactions) == 3


def test_two_stray_quotation_marks_drop_no_row_between_them(tmp_path: Path) -> None:
    rows = [["u1", f"i{number}", "3", f"Book {number}"] for number in range(9)]
    # A quoted value begins in the third row and ends in the seventh, with too many fields behind it.
    rows[2][2], rows[6][2] = '"3', '3"'
    path = write(tmp_path / "a.csv", ",", rows)
    path.write_text(path.read_text().replace('3",Book 6', '3",3,Book 6'))
    with pytest.raises(DataError, match="2 of 9 rows"):
        read(path)
    kept = read(path, drop_invalid=True)
    assert set(kept.interactions["item_id"]) == {row[1] for row in rows} - {"i2", "i6"}
    dropped = kept.report["dropped"]
    assert sum(dropped.values()) == 2, dropped


def test_a_quotation_mark_anywhere_in_a_large_file_drops_only_its_row(tmp_path: Path) -> None:
    lines = [f"{n % 97},{n},{1 + n % 5},t{n}" for n in range(400)]
    for row in (0, 1, 57, 199, 398):
        for column in range(4):
            fields = lines[row].split(",")
            fields[column] = '"' + fields[column]
            other = [*lines]
            other[row] = ",".join(fields)
            # A later quoted title would close the value.
            other[399] = '2,399,5,"t, 399"'
            path = tmp_path / "a.csv"
            path.write_text("\n".join([",".join(HEADER), *other]) + "\n")
            with pytest.raises(DataError, match=f"1 of 400 rows cannot .*line {row + 2}: "):
                read(path)
            ds = read(path, drop_invalid=True)
            assert len(ds.interactions) == 399


def test_paired_quotation_marks_in_a_title_are_read_or_refuse_the_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ",", [["u1", "i1", "5", 'The "Best" of']])
    assert titles(path) == {"i1": 'The "Best" of'}
    path = write(tmp_path / "a.csv", ",", [["u1", "i1", "5", '"Heroes" and more']])
    with pytest.raises(DataError, match="1 with a stray quotation mark"):
        read(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_inside_a_quoted_value_is_refused_either_way(
    tmp_path: Path, packed: bool
) -> None:
    text = ",".join(HEADER) + '\nu1,i1,5,Plain\nu1,i2,4,"Cut in the mid'
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    for options in ({}, {"drop_invalid": True}):
        with pytest.raises(DataError, match="ends inside a quoted value that begins in line 3"):
            read(path, **options)
    with pytest.raises(DataError, match="ends inside a quoted value"):
        check_table(path, task="rating")


def test_texts_of_several_lines_are_read_and_other_quotes_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(HEADER) + '\nu1,i1,5,"One\nline, and\ntwo"\nu2,i2,4,Other\n')
    assert titles(path) == {"i1": "One line, and two", "i2": "Other"}
    path.write_text(",".join(HEADER) + "\nu1,i1,5,'One, two'\n")
    assert titles(path, quote="'") == {"i1": "One, two"}
    for quote in ("''", ","):
        with pytest.raises(DataError, match="The quote must be one character"):
            read(path, quote=quote)


def test_a_carriage_return_is_a_space_in_a_title_and_refused_in_an_id(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"user_id,item_id,outcome,text\nu1,i1,5,Tit\rle\nu1,i\r2,4,Other\n")
    with pytest.raises(DataError, match="1 of 2 rows cannot .*1 without a usable item id"):
        read(path)
    assert titles(path, drop_invalid=True) == {"i1": "Tit le"}
    path.write_bytes(path.read_bytes().replace(b"\r", b"").replace(b"\n", b"\r"))
    assert titles(path) == {"i1": "Title", "i2": "Other"}


def test_a_delimiter_may_be_spelled_out_and_a_header_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text("u1\ti1\t5\tOne\nu1\ti2\t4\tTwo\n")
    columns = dict(zip(HEADER, "1234", strict=True))
    ds = read(path, delimiter="\\t", no_header=True, columns=columns)
    assert len(ds.interactions) == 2 and set(ds.items["text"]) == {"One", "Two"}
    with pytest.raises(DataError, match=r"looks like data: pass no_header=True"):
        read(path, delimiter="\t")
    preview = preview_table(path, delimiter="\t", no_header=True)
    assert preview.frame["1"].tolist() == ["u1", "u1"]


FIELD = st.text(st.sampled_from('ab ,;"\n\r7é'), max_size=5)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.lists(FIELD, min_size=3, max_size=3), min_size=1, max_size=8))
def test_files_of_a_csv_writer_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["x", "y", "z"], *rows])
    path.write_bytes(text.getvalue().encode())
    columns = read_columns(path, ["z", "x", "y"], csv_format=CsvFormat(quote='"'))
    assert not columns.bad
    # A carriage return inside a value is read as a space, and is dropped at the end of a line.
    clean = [[field.replace("\r\n", "\n").replace("\r", "\v") for field in row] for row in rows]
    records = columns.table.to_pylist()
    assert [[row["x"], row["y"], row["z"]] for row in records] == clean


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(st.sampled_from("ab 7é"), max_size=4), min_size=1, max_size=4)))
def test_both_readers_agree_without_quotation_marks(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    text = "x,y,z\n" + "".join(",".join(row) + "\n" for row in rows)
    (folder / "fast.csv").write_text(text)
    (folder / "strict.csv").write_text(text + '"q","q","q"\n')
    fast, strict = (open_csv(folder / f"{name}.csv", CsvFormat()) for name in ("fast", "strict"))
    assert not fast.marks and strict.marks
    (table, bad_rows), (other_table, other_bad_rows) = fast.read([2, 0]), strict.read([2, 0])
    assert table.to_pylist() == other_table.to_pylist()[:-1]
    assert [row.text for row in bad_rows] == [row.text for row in other_bad_rows]


def test_the_encoding_and_delimiter_of_the_items_may_differ(tmp_path: Path) -> None:
    table = frame()
    rows = save(table.drop(columns="text"), tmp_path / "rows.csv")
    items = table[["item_id", "text"]].drop_duplicates()
    items["text"] = "Café " + items["text"]
    path = tmp_path / "items.txt"
    path.write_bytes(items.to_csv(index=False, sep="|").encode("cp1252"))
    ds = read(rows, items_path=path, items_delimiter="|", items_encoding="cp1252")
    assert len(ds.interactions) == USERS * EACH
    assert ds.items["text"].str.startswith("Café ").all()
    with pytest.raises(DataError, match=r"items.txt is not UTF-8 text \(line 2\)"):
        read(rows, items_path=path, items_delimiter="|")
