"""Times of tables: units are inferred from the values and reported; implausible ones are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rating_tables import frame, read, save

from puma_engine.datasets.reading.times import UNITS, read_times
from puma_engine.errors import DataError

FIRST, LAST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1995, 2099))
SECONDS = st.lists(st.integers(FIRST, LAST), min_size=1, max_size=20)


def column(values: object) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


@settings(max_examples=60, deadline=None)
@given(SECONDS, st.sampled_from(list(UNITS)), st.booleans(), st.booleans())
def test_every_unit_is_found_from_the_values(
    seconds: list[int], unit: str, as_text: bool, is_unit_named: bool
) -> None:
    values = [int(second * UNITS[unit]) for second in seconds]
    times = read_times(
        column([str(value) for value in values] if as_text else values),
        unit if is_unit_named else None,
    )
    assert times.usable.all() and times.seconds.tolist() == seconds and times.note is None


@settings(max_examples=40, deadline=None)
@given(
    SECONDS,
    st.sampled_from(
        [
            *("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y%m%d%H%M%S", "%d.%m.%Y %H:%M:%S"),
            *("%a %b %d %H:%M:%S +0000 %Y", "%a, %d %b %Y %H:%M:%S GMT"),
            *("%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S.%f GMT"),
            *("%m/%d/%Y %I:%M:%S %p", "%Y/%m/%d %H:%M:%S", "%b %d, %Y %I:%M:%S %p"),
        ]
    ),
)
def test_common_formats_are_read(seconds: list[int], form: str) -> None:
    # A 13 can only be a day.
    seconds = [*seconds, int(datetime(2015, 9, 13, tzinfo=UTC).timestamp())]
    texts = [datetime.fromtimestamp(second, UTC).strftime(form) for second in seconds]
    times = read_times(column(texts))
    assert times.usable.all() and times.seconds.tolist() == seconds


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([20150904, 20151231], ["2015-09-04", "2015-12-31"]),
        (["20150904", "20151231"], ["2015-09-04", "2015-12-31"]),
        ([2024, 2019], ["2024-01-01", "2019-01-01"]),
        (["09 4, 2015", "12 31, 2015"], ["2015-09-04", "2015-12-31"]),
        (["4 Sep 2015", "31 Dec 2015"], ["2015-09-04", "2015-12-31"]),
        (["Sep 4 2015", "Dec 31 2015"], ["2015-09-04", "2015-12-31"]),
        (["2015-09-04 00:00:00 UTC", "2015-12-31 00:00:00.5 UTC"], ["2015-09-04", "2015-12-31"]),
        (pd.to_datetime(["2015-09-04 00:00:00.123456718"]), ["2015-09-04"]),
    ],
)
def test_dates_without_a_time_are_days(values: object, expected: list[str]) -> None:
    times = read_times(column(values))
    days = pd.to_datetime(times.seconds, unit="s").strftime("%Y-%m-%d").tolist()
    assert times.usable.all() and days == expected


def test_days_and_months_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(DataError, match="Days and months .* cannot be told apart"):
        read_times(column(["03/04/2015", "05/06/2015"]))
    times = read_times(column(["03/04/2015", "05/06/2015"]), "%d/%m/%Y")
    assert times.seconds[0] == datetime(2015, 4, 3, tzinfo=UTC).timestamp()
    assert read_times(column(["03/04/2015", "13/06/2015"])).written_as == "%d/%m/%Y"


def test_times_out_of_range_are_unusable() -> None:
    valid = 1_441_324_800
    values = [valid, -1, 0, valid * 1000, valid + 1, valid + 2, None, 2024]
    assert read_times(column(values)).usable.tolist() == [
        *(True, False, False, False),
        *(True, True, False, False),
    ]
    dates = ["2015-09-04", "0001-01-01", "9999-12-31", "1970-01-01", "soon", ""]
    assert read_times(column(dates)).usable.tolist() == [True] + [False] * 5


def test_a_unit_that_does_not_fit_is_refused_and_counts_keep_their_order() -> None:
    with pytest.raises(DataError, match="look like milliseconds. Pass time_unit='ms'"):
        read_times(column([1_441_324_800_000]), "s")
    with pytest.raises(DataError, match="look like %Y%m%d"):
        read_times(column([20150904]), "s")
    # .NET counts 100 ns since the year 1.
    for values in ([0.25, 0.5], [635_769_216_000_000_000]):
        with pytest.raises(DataError, match="in no known unit; pass time_unit="):
            read_times(column(values))
    for unit in ("days", "m"):
        with pytest.raises(DataError, match="time_unit must be s, ms"):
            read_times(column([1]), unit)
    times = read_times(column([30, 5, -1, 7]))
    assert times.seconds[[0, 1, 3]].tolist() == [30, 5, 7]
    assert times.usable.tolist() == [True, True, False, True]
    assert "only their order is used. If they are dates, pass time_unit" in str(times.note)
    warning = read_times(column([2019, 2020]), "ms").note
    assert warning == (
        "The times (one is 2019) are not dates between 1995 and 2100 in milliseconds; only their order "
        "is used."
    )


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (["1.44132E+12", "1.44133E+12", "1.44135E+12"], "10,000"),  # as a spreadsheet shows them
        (["1.441E+09", "1.442E+9"], "1,000,000"),
        (np.array([1_441_324_800, 1_441_324_900], np.float32), "128"),
        ([f"{1_441_324_800 + n:.10E}" for n in range(3)], None),
        ([repr(float(1_441_324_800 + n) * 1e9) for n in range(3)], None),
        (np.array([1_441_324_800, 1_441_324_900], np.float64), None),
        ([30, 5, 7], None),
    ],
)
def test_times_that_lost_digits_give_a_note(values: object, step: str | None) -> None:
    note = read_times(column(values)).note or ""
    assert ("rounded to steps" in note) == (step is not None)
    assert step is None or f"about {step} seconds" in note


def test_an_import_reports_how_times_were_read(tmp_path: Path) -> None:
    table = frame()
    days = pd.to_datetime("2018-01-10") + pd.to_timedelta(np.arange(len(table)), unit="D")
    plain = read(save(table.assign(time=days), tmp_path / "dates.parquet"))
    numbers = save(table.assign(time=days.strftime("%Y%m%d").astype(int)), tmp_path / "numbers.csv")
    ds = read(numbers)
    assert ds.content_hash == plain.content_hash
    assert ds.report["times"] == {"written_as": "%Y%m%d"}
    exact = table.assign(time=days.astype("datetime64[ns]") + pd.Timedelta(123_456_789, "ns"))
    assert read(save(exact, tmp_path / "ns.parquet")).content_hash == plain.content_hash
    whole_seconds = table.assign(time=exact["time"].astype("int64"))
    assert read(save(whole_seconds, tmp_path / "int.parquet")).content_hash == plain.content_hash
