"""Options for importing a table: its layout, the meaning of values, and which rows are used."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from puma_engine.datasets.reading.csv_tables import CsvFormat
from puma_engine.errors import DataError

SPLIT_BY = ("user", "time")


@dataclass(frozen=True)
class TableOptions:
    """Options of reading a table.

    Layout. columns: from our fields (user_id, item_id, outcome; text, time, history, split) to the
    file's column names; a field that is not named, other than split, is looked up under its own
    name. items_path: a second table with item_id and text, where the first has no text
    (item_columns: its names). id_as_text: the item id is its text. delimiter, encoding, quote,
    no_header: see CsvFormat; items_delimiter and so on: the same of items_path, where all but
    items_no_header are those of the table by default. time_unit: see reading.times.read_times.
    history_separator: between the item ids of a history written as text.

    Values. scale: "1:10", the least and the largest rating, which become 1 and 5. not_rated: the
    value of rows without a rating. click_threshold: outcomes of at least this are clicks, others
    non-clicks. draw_non_clicks: as many non-clicks as clicks are drawn for each user, by how often
    items are clicked, among items that the user has no row of.

    Rows. drop_invalid: leave unusable rows out and count them, instead of refusing the file.
    max_bad_share: the same as long as no more than this share of the rows, in [0, 1], is unusable;
    repeated pairs and rows of items without text do not count. min_item_rows: items with fewer
    rows are left out; min_rows: then users with fewer. users: size of a seeded sample. max_rows:
    of users with more, the latest rows stay (a seeded sample without times). split_by: "user"
    holds out each user's latest rows, "time" all rows from one time on.

    Raises DataError for values out of range.
    """

    columns: Mapping[str, str] | None = None
    items_path: str | Path | None = None
    item_columns: Mapping[str, str] | None = None
    id_as_text: bool = False
    delimiter: str | None = None
    encoding: str | None = None
    quote: str | None = None
    no_header: bool = False
    items_delimiter: str | None = None
    items_encoding: str | None = None
    items_quote: str | None = None
    items_no_header: bool = False
    time_unit: str | None = None
    history_separator: str = " "
    scale: str | None = None
    not_rated: float | None = None
    click_threshold: float | None = None
    draw_non_clicks: bool = False
    drop_invalid: bool = False
    max_bad_share: float | None = None
    users: int | None = None
    min_item_rows: int = 0
    min_rows: int = 1
    max_rows: int | None = None
    split_by: str = "user"

    def __post_init__(self) -> None:
        if self.min_rows < 1 or (self.max_rows is not None and self.max_rows < self.min_rows):
            raise DataError(
                f"min_rows must be 1 or more and max_rows at least that, not {self.min_rows} and "
                f"{self.max_rows}."
            )
        if self.min_item_rows < 0 or (self.users is not None and self.users < 1):
            raise DataError(
                f"min_item_rows must be 0 or more and users 1 or more, not {self.min_item_rows} and "
                f"{self.users}."
            )
        if self.max_bad_share is not None and not 0 <= self.max_bad_share <= 1:
            raise DataError(f"max_bad_share must be from 0 to 1, not {self.max_bad_share}.")
        if self.split_by not in SPLIT_BY:
            raise DataError(f"split_by must be user or time, not {self.split_by!r}.")
        if self.id_as_text and self.items_path is not None:
            raise DataError("id_as_text and items_path exclude each other; give one of them.")
        if "split" in (self.columns or {}) and self.split_by == "time":
            raise DataError("split_by='time' and a column of splits exclude each other; give one.")
        self.bounds  # noqa: B018  # refuses a scale that cannot be read

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest rating of the file, 1 and 5 without a scale."""
        if self.scale is None:
            return 1.0, 5.0
        least, _, largest = self.scale.partition(":")
        try:
            bounds = float(least), float(largest)
        except ValueError:
            bounds = 0.0, 0.0
        if not -1e9 < bounds[0] < bounds[1] < 1e9:
            raise DataError(
                f"A scale is the least and the largest rating, such as 1:10 or 0.5:5, not {self.scale!r}."
            )
        return bounds

    def check_task(self, task: str) -> None:
        """Raise DataError for options of the other task, or of a file of items that is not given."""
        wrong = {
            "rating": {
                "click_threshold": self.click_threshold is not None,
                "draw_non_clicks": self.draw_non_clicks,
            },
            "click": {"scale": self.scale is not None, "not_rated": self.not_rated is not None},
        }[task]
        refused = [name for name, is_given in wrong.items() if is_given]
        if refused:
            raise DataError(f"The task {task!r} takes no {' and no '.join(refused)}.")
        of_items = (
            "item_columns",
            "items_delimiter",
            "items_encoding",
            "items_quote",
            "items_no_header",
        )
        unused = [name for name in of_items if getattr(self, name)]
        if unused and self.items_path is None:
            raise DataError(
                f"{' and '.join(unused)} {'is' if len(unused) == 1 else 'are'} of the file of items, and none is "
                "given; name it with items_path (--items-path)."
            )

    @property
    def csv_format(self) -> CsvFormat:
        return CsvFormat(self.delimiter, self.encoding, self.quote, not self.no_header, True)

    @property
    def items_csv_format(self) -> CsvFormat:
        """The format of items_path; options that are not given are those of the table."""
        return CsvFormat(
            self.items_delimiter or self.delimiter,
            self.items_encoding or self.encoding,
            self.items_quote or self.quote,
            not self.items_no_header,
            quote_option=True,
        )
