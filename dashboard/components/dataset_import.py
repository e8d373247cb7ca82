"""Data, view "Import": upload, map and check a file, or take a data set that ships with PUMA."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.column_config import NumberColumn, TextColumn
from streamlit.delta_generator import DeltaGenerator

from dashboard import engine
from dashboard.components import formatting, page_states, query_params, tables, upload_box
from dashboard.components.formatting import short
from dashboard.engine import datasets, uploads
from dashboard.engine.uploads import Upload

ORIGINS = {"file": "A file", "shipped": "A data set that ships with PUMA"}
TASKS = {"rating": "Ratings, 1 to 5", "click": "Clicks, 0 or 1"}
QUOTES = {"": "Found from the file", '"': 'Double quote "', "'": "Single quote '", "none": "None"}
UNITS = {
    "": "Found from the values",
    "s": "Seconds",
    "ms": "Milliseconds",
    "us": "Microseconds",
    "ns": "Nanoseconds",
    "%d/%m/%Y": "Dates: day/month/year",
    "%m/%d/%Y": "Dates: month/day/year",
}
FIELDS = {
    "user_id": ("User", "The id of the user: text or integers."),
    "item_id": ("Item", "The id of the item: text or integers."),
    "outcome": ("Outcome", "The rating, or the click: 0 or 1, or plays or hours with a threshold."),
    "text": ("Title", "The text that the language model reads for the item."),
    "time": ("Time", "Numbers or dates. With times, the newest records are held out."),
    "history": ("History", "Earlier items of the user: a list, or ids in one text."),
}
HELD_OUT = {
    "user": "The newest records of each user",
    "time": "All records from one time on",
}
NONE = "(none)"
# Smaller files are checked by themselves, in bytes.
AUTO_CHECK = 20 << 20


def panel() -> engine.Job | None:
    """Draw the widgets to import a data set; return the job of an import that was just started."""
    if page_states.viewing():
        return None
    if query_params.segment("Source", ORIGINS, "from") == "shipped":
        return shipped()
    return file()


def shipped() -> engine.Job | None:
    """Draw the choice of a shipped data set; return the job of its import if it was just started."""
    sets = datasets.shipped()
    with st.form("import-shipped"):
        name = st.selectbox(
            "Data set",
            list(sets),
            format_func=lambda key: f"{key} ({TASKS[sets[key].task]})",
            key="shipped-name",
        )
        hint = "Size of a seeded subset of users; 0 takes all users."
        users = st.number_input(
            "Users", min_value=0, value=600, step=100, key="shipped-users", help=hint
        )
        st.text(short(sets[name].description, 300))
        if st.form_submit_button("Import", type="primary", icon=":material/download:"):
            return _queue(lambda: datasets.import_shipped(name, int(users) or None))
    return None


def file() -> engine.Job | None:
    """Draw upload, columns and check of a file; return the job of its import if it was just started."""
    if engine.has_workspace():
        uploads.remove_uploads(engine.workspace())
    upload = upload_box.show("A table with one row per rating or click", "upload", datasets.TABLE)
    if upload is None:
        st.caption(
            f"CSV, TSV, RecBole .inter or JSON lines (also compressed as .gz) or Parquet, at most "
            f"{formatting.size(uploads.MAX_BYTES)}. Nothing is stored until you import. "
            "The published files of Amazon Reviews, Yelp, MIND and MovieLens are read by "
            "`puma data import`."
        )
        return None
    items = None
    if st.toggle("Titles are in a second file", key="second-file"):
        items = upload_box.show("A table with one row per item", "upload-items", datasets.TABLE)
    # What most files need stands first: columns, what the check says, the import.
    columns, result, options = st.container(), st.container(), st.container()
    try:
        settings = _settings(upload, items, columns, options)
    except engine.PumaError as error:
        page_states.failed("The file cannot be read as a table.", error)
        return None
    if settings is None:
        return None
    with result:
        return _check_and_import(upload, items, settings)


def _settings(
    upload: Upload,
    items: Upload | None,
    place: DeltaGenerator,
    options: DeltaGenerator,
) -> datasets.TableSettings | None:
    """Draw preview and columns at a place, and options; None while a column is missing.

    Raises PumaError.
    """
    with options.expander("Format of the file", icon=":material/tune:"):
        cells = st.columns(4)
        delimiter = cells[0].text_input(
            "Delimiter", max_chars=3, key="delimiter", help="Of CSV; \\t is a tab."
        )
        encoding = cells[1].text_input("Encoding", key="encoding", placeholder="utf-8")
        quote = cells[2].selectbox(
            "Quote", list(QUOTES), format_func=QUOTES.__getitem__, key="quote"
        )
        no_header = cells[3].checkbox("The first row is data", key="no-header")
        cells = st.columns(4)
        unit = cells[0].selectbox(
            "Times", list(UNITS), format_func=UNITS.__getitem__, key="time-unit"
        )
        separator = cells[1].text_input("Separator of a history", value=" ", key="separator")
        items_delimiter = items_encoding = ""
        if items:
            items_delimiter = cells[2].text_input(
                "Delimiter of the second file", max_chars=3, key="items-delimiter"
            )
            items_encoding = cells[3].text_input(
                "Encoding of the second file", key="items-encoding"
            )
    layout = datasets.TableSettings(
        delimiter=delimiter or None,
        encoding=encoding or None,
        quote=quote or None,
        no_header=no_header,
        items_delimiter=items_delimiter or None,
        items_encoding=items_encoding or None,
        time_unit=unit or None,
        history_separator=separator or " ",
    )
    shown = datasets.preview(upload, layout)
    of_items = items and datasets.preview(items, layout, items=True)
    with place:
        st.markdown("**Which column is what** (guessed from what they hold; change what is wrong)")
        fields = [name for name in FIELDS if not items or name != "text"]
        columns = _mapping(shown, fields, "column")
        tables.show(_in_own_words(shown.frame.head(5), columns), alt="The first rows of the file")
        task = st.segmented_control(
            "The outcomes are",
            list(TASKS),
            default=shown.task,
            required=True,
            format_func=TASKS.__getitem__,
            key="task",
        )
        id_as_text = (
            not items
            and "text" not in columns
            and st.checkbox("Take the item ids as titles", key="id-as-text")
        )
        missing = {*datasets.REQUIRED, *(() if items or id_as_text else ("text",))} - set(columns)
        item_columns: dict[str, str] = {}
        if of_items:
            tables.show(of_items.frame.head(5), alt="The first rows of the titles")
            item_columns = _mapping(of_items, ["item_id", "text"], "item-column")
            missing |= {"item_id", "text"} - set(item_columns)
        if missing:
            names = ", ".join(FIELDS[name][0] for name in FIELDS if name in missing)
            st.info(f"Choose a column for: {names}.", icon=":material/arrow_upward:")
            return None
        drop = st.checkbox(
            "Drop invalid rows",
            key="drop-invalid",
            help="Otherwise an invalid row refuses the file.",
        )
    with options.expander("Outcomes, filters and hold-out", icon=":material/rule:"):
        values = _values(task)
    return replace(
        layout,
        task=task,
        columns=columns,
        item_columns=item_columns,
        drop_invalid=bool(drop),
        id_as_text=bool(id_as_text),
        **values,
    )


def _in_own_words(frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Return a preview whose columns also say what they were taken for."""
    names = {column: f"{FIELDS[field][0]}: {column}" for field, column in columns.items()}
    return frame.rename(columns=names)


def _values(task: str) -> dict[str, Any]:
    """Draw what outcomes mean and how rows are held out; return the settings."""
    cells = st.columns(3)
    values: dict[str, Any] = {}
    if task == "rating":
        scale = cells[0].text_input(
            "Scale", key="scale", placeholder="1:5", help="Lowest and highest rating, such as 1:10."
        )
        values["scale"] = scale.strip() or None
        values["not_rated"] = cells[1].number_input(
            "Value of “not rated”", value=None, key="not-rated"
        )
    else:
        values["click_threshold"] = cells[0].number_input(
            "Click from",
            value=None,
            key="threshold",
            help="Plays or hours that count as a click.",
        )
        values["draw_non_clicks"] = cells[1].checkbox(
            "Draw non-clicks", key="draw", help="Where the file has clicks alone."
        )
    split = cells[2].selectbox(
        "Hold out",
        list(HELD_OUT),
        format_func=HELD_OUT.__getitem__,
        key="split-by",
    )
    limits = st.columns(4)
    rows = limits[2].number_input("Minimum records per user", min_value=1, value=1, key="min-rows")
    most = limits[3].number_input(
        "Maximum records per user (0: all)", min_value=0, value=0, key="max-rows"
    )
    values |= {"min_rows": int(rows), "max_rows": int(most) or None}
    values["min_item_rows"] = int(
        limits[0].number_input("Minimum records per item", min_value=0, key="min-item-rows")
    )
    users = limits[1].number_input("Users (0: all)", min_value=0, key="table-users")
    return values | {"split_by": split, "users": int(users) or None}


def _mapping(shown: Any, fields: list[str], key: str) -> dict[str, str]:
    """Draw one select box per field, set to the guessed column; return the chosen columns."""
    options = [NONE, *shown.frame.columns]
    chosen = {}
    for column, name in zip(st.columns(len(fields)), fields, strict=True):
        label, hint = FIELDS[name]
        guess = shown.guess.get(name)
        value = column.selectbox(
            label,
            options,
            index=options.index(guess) if guess else 0,
            format_func=lambda option: short(str(option), 40),
            key=f"{key}-{name}",
            help=hint,
        )
        if value in shown.frame.columns:
            chosen[name] = value
    return chosen


def _check_and_import(
    upload: Upload, items: Upload | None, settings: datasets.TableSettings
) -> engine.Job | None:
    # What the result of a check depends on.
    fingerprint = (upload.path, items and items.path, replace(settings, drop_invalid=False))
    checked, report = st.session_state.get("checked", (None, None))
    size = sum(part.path.stat().st_size for part in (upload, items) if part is not None)
    due = checked != fingerprint
    if due and size > AUTO_CHECK:
        if report is not None:
            page_states.stale("The settings changed after the check; check the file again.")
        due = st.button("Check the file", icon=":material/fact_check:", key="check")
    if due:
        try:
            with st.spinner("Reading the whole file"):
                report = datasets.check(upload, items, settings)
            checked = fingerprint
            st.session_state["checked"] = (checked, report)
        except engine.PumaError as error:
            st.session_state.pop("checked", None)
            page_states.failed("The file cannot be imported like this.", error)
            return None
    if checked != fingerprint or report is None or not _show_check(report, settings.drop_invalid):
        return None
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input(
            "Name of the data set",
            max_chars=100,
            key="import-name",
            placeholder=upload.path.name.partition(".")[0],
        )
        clicked = st.button("Import", type="primary", icon=":material/download:", key="import")
    if not clicked:
        return None
    return _queue(lambda: datasets.import_table(upload, items, settings, name.strip() or None))


def _show_check(check: dict[str, Any], dropping: bool) -> bool:
    """Show the result of a check; return whether the file can be imported."""
    if check["refusal"]:
        page_states.failed("No row of this file can be imported.", check["refusal"])
        return False
    problems, statistics = check["problems"], check["statistics"]
    invalid = sum(problem["rows"] for problem in problems)
    if not problems:
        st.success(f"All {check['rows']:,} rows can be used.", icon=":material/check_circle:")
    elif dropping:
        st.warning(
            f"{invalid:,} of {check['rows']:,} rows will be dropped.", icon=":material/filter_alt:"
        )
    else:
        st.error(
            f"{invalid:,} of {check['rows']:,} rows cannot be used. Correct the file, choose other "
            "columns, or select “Drop invalid rows”.",
            icon=":material/error:",
        )
    if problems:
        columns = {
            "reason": "Rows",
            "rows": NumberColumn("Count", format="localized"),
            "example": TextColumn("First example", width="large"),
        }
        tables.show(pd.DataFrame(problems), columns, alt="Why rows cannot be used")
    shown = {
        "Users": formatting.count(statistics["users"]),
        "Items": formatting.count(statistics["items"]),
        "Records": formatting.count(statistics["records"]),
        "Records per user (median)": f"{statistics['rows_per_user']['median']:,.0f}",
        "Mean outcome": f"{statistics['mean_outcome']:.2f}",
    }
    tables.metrics({label: (text, None) for label, text in shown.items()})
    read = ", ".join(f"{field}: {column}" for field, column in check["columns"].items())
    st.text(f"Columns that are read: {read}")
    for warning in check["report"]["warnings"]:
        st.text(f"Note: {warning}")
    return not problems or dropping


def _queue(start: Callable[[], engine.Job]) -> engine.Job | None:
    try:
        job = start()
    except (engine.PumaError, OSError) as error:
        page_states.failed("The import was not started.", error)
        return None
    upload_box.forget("upload", "upload-items")
    st.session_state.pop("checked", None)
    return job
