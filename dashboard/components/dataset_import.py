"""Importing: a file from the browser, previewed, mapped and checked first; or a shipped set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import formatting, page_states, query_params
from dashboard.components.formatting import short
from dashboard.engine import datasets

ORIGINS = {"file": "A file of yours", "shipped": "A set that ships with PUMA"}
TASKS = {"rating": "Ratings, 1 to 5", "click": "Clicks, 0 or 1"}
FIELDS = {
    "user_id": ("User", "Who. Text or whole numbers."),
    "item_id": ("Item", "What. Text or whole numbers."),
    "outcome": ("Outcome", "The rating from 1 to 5, or the click, 0 or 1."),
    "text": ("Title", "What a language model reads about the item, such as its title."),
    "time": ("Time", "When; the newest records are then held out. Seconds or ISO 8601 dates."),
    "history": ("History", "Items that the user met before: a list, or ids in one text."),
}
NONE = "(none)"


def panel() -> None:
    """Choose where the data come from, then bring them in."""
    if engine.has_workspace():
        datasets.forget_uploads(engine.workspace())
    origin = query_params.segment("Where from", ORIGINS, "from")
    if origin == "shipped":
        _shipped()
    else:
        _file()


def _shipped() -> None:
    sets = {one.name: one for one in datasets.shipped()}
    with st.form("import-shipped"):
        name = st.selectbox(
            "Data set",
            list(sets),
            format_func=lambda key: f"{key} ({TASKS[sets[key].task]})",
            key="shipped-name",
        )
        users = st.number_input(
            "Users",
            min_value=0,
            value=600,
            step=100,
            key="shipped-users",
            help="A seeded subset of so many users; 0 takes all.",
        )
        st.text(short(sets[name].about, 300))
        if st.form_submit_button("Import", type="primary", icon=":material/download:"):
            _queue(lambda: datasets.import_shipped(name, int(users) or None))


def _file() -> None:
    st.markdown("##### 1. Choose a file")
    upload = _upload("A table with a row for each rating or click", "upload")
    if upload is None:
        st.caption(
            f"CSV or TSV (either may be packed as .gz) or Parquet, at most "
            f"{formatting.size(datasets.MOST_BYTES)}, with a header. Nothing is kept until you import. "
            "The published files of Amazon Reviews, Yelp, MIND and MovieLens are read by "
            "`puma data import`."
        )
        return
    items = None
    if st.toggle("Titles are in a second file", key="second-file"):
        items = _upload("A table with a row for each item", "upload-items")
    settings = _settings(upload, items)
    if settings is not None:
        _check_and_import(upload, items, settings)


def _upload(label: str, key: str) -> datasets.Upload | None:
    """Return the file in an upload box, spooled and checked once."""
    given = st.file_uploader(
        label,
        type=[ending.rpartition(".")[2] for ending in datasets.ENDINGS],
        key=key,
        max_upload_size=datasets.MOST_BYTES >> 20,
    )
    kept = f"{key}-kept"
    if given is None:
        st.session_state.pop(kept, None)
        return None
    held = st.session_state.get(kept)
    if held is None or held[0] != given.file_id:
        try:
            upload = datasets.Upload(given.name, given, given.size)
        except engine.PumaError as error:
            page_states.failed("This file is refused.", error)
            return None
        held = st.session_state[kept] = (given.file_id, upload)
    return held[1]


def _settings(
    upload: datasets.Upload, items: datasets.Upload | None
) -> datasets.TableSettings | None:
    """Preview, mapping and options; None while the file cannot be read or a column is missing."""
    written = _written()
    try:
        shown = datasets.preview(upload, written)
        of_items = items and datasets.preview(items, written)
    except engine.PumaError as error:
        page_states.failed("The file cannot be read as a table.", error)
        return None
    st.markdown("##### 2. Say which column is what")
    st.dataframe(shown.frame.head(8), hide_index=True, alt="The first rows of the file")
    task = st.segmented_control(
        "The outcomes are",
        list(TASKS),
        default="rating",
        required=True,
        format_func=TASKS.__getitem__,
        key="task",
    )
    columns = _mapping(shown, [name for name in FIELDS if not items or name != "text"], "column")
    of_second: dict[str, str] = {}
    if of_items:
        st.dataframe(of_items.frame.head(5), hide_index=True, alt="The first rows of the titles")
        of_second = _mapping(of_items, ["item_id", "text"], "item-column")
    if not _is_complete(columns, of_second if items else None):
        return None
    return _limited(replace(written, task=task, columns=columns, item_columns=of_second))


def _written() -> datasets.TableSettings:
    """How the file is written, from a folded row of fields."""
    with st.expander("How the file is written", icon=":material/tune:"):
        columns = st.columns(4)
        delimiter = columns[0].text_input("Delimiter", max_chars=1, key="delimiter", help="Of CSV.")
        encoding = columns[1].text_input("Encoding", key="encoding", placeholder="utf-8")
        unit = columns[2].selectbox("Times count", ["s", "ms"], key="time-unit")
        separator = columns[3].text_input("Between items of a history", value=" ", key="separator")
    return datasets.TableSettings(
        delimiter=delimiter or None,
        encoding=encoding or None,
        time_unit=unit,
        history_separator=separator or " ",
    )


def _is_complete(columns: dict[str, str], of_second: dict[str, str] | None) -> bool:
    """Say which fields still need a column, if any."""
    missing = {*datasets.REQUIRED, *(() if of_second is not None else ("text",))} - set(columns)
    if of_second is not None:
        missing |= {"item_id", "text"} - set(of_second)
    if missing:
        names = ", ".join(FIELDS[name][0] for name in FIELDS if name in missing)
        st.info(f"Choose a column for: {names}.", icon=":material/arrow_upward:")
    return not missing


def _mapping(shown: Any, fields: list[str], key: str) -> dict[str, str]:
    """A select box a field, set to the guess; returns the chosen column of each."""
    options = [NONE, *shown.frame.columns]
    found = {}
    for column, name in zip(st.columns(len(fields)), fields, strict=True):
        label, about = FIELDS[name]
        guess = shown.guess.get(name)
        chosen = column.selectbox(
            label,
            options,
            index=options.index(guess) if guess else 0,
            format_func=lambda one: short(str(one), 40),
            key=f"{key}-{name}",
            help=about,
        )
        if chosen in shown.frame.columns:
            found[name] = chosen
    return found


def _limited(settings: datasets.TableSettings) -> datasets.TableSettings:
    """Which users and rows are taken, from a row of fields."""
    columns = st.columns(3, vertical_alignment="bottom")
    least = columns[0].number_input(
        "Leave out users with fewer records than", min_value=1, value=1, key="min-rows"
    )
    most = columns[1].number_input(
        "Keep at most so many records a user (0: all)", min_value=0, value=0, key="max-rows"
    )
    drop = columns[2].checkbox(
        "Leave out bad rows", key="drop-invalid", help="Otherwise one bad row refuses the file."
    )
    return replace(
        settings, min_rows=int(least), max_rows=int(most) or None, drop_invalid=bool(drop)
    )


def _check_and_import(
    upload: datasets.Upload, items: datasets.Upload | None, settings: datasets.TableSettings
) -> None:
    st.markdown("##### 3. Check, then import")
    question = _fingerprint(upload, items, settings)
    if st.button("Check the file", icon=":material/fact_check:", key="check"):
        try:
            with st.spinner("Reading the whole file"):
                st.session_state["checked"] = (question, datasets.check(upload, items, settings))
        except engine.PumaError as error:
            st.session_state.pop("checked", None)
            page_states.failed("The file cannot be imported like this.", error)
    asked, found = st.session_state.get("checked", (None, None))
    if found is None:
        return
    if asked != question:
        page_states.stale("The settings were changed since the check; check the file again.")
        return
    if _show_check(found, settings.drop_invalid):
        name = st.text_input("Name of the data set", max_chars=100, key="import-name")
        if st.button("Import", type="primary", icon=":material/download:", key="import"):
            _queue(lambda: datasets.import_table(upload, items, settings, name.strip() or None))


def _fingerprint(
    upload: datasets.Upload, items: datasets.Upload | None, settings: datasets.TableSettings
) -> str:
    """Return what a check's result holds for: the files and how they are read."""
    values = asdict(settings) | {"drop_invalid": None}
    paths = (upload.path, items and items.path)
    return hashlib.sha256(repr((paths, sorted(values.items()))).encode()).hexdigest()


def _show_check(found: dict[str, Any], dropping: bool) -> bool:
    """Show the report of a check; return whether the file can be imported."""
    if found["refusal"]:
        page_states.failed("Nothing of this file could be kept.", found["refusal"])
        return False
    problems, kept = found["problems"], found["statistics"]
    bad = sum(problem["rows"] for problem in problems)
    if not problems:
        st.success(f"All {found['rows']:,} rows can be used.", icon=":material/check_circle:")
    elif dropping:
        st.warning(
            f"{bad:,} of {found['rows']:,} rows will be left out.", icon=":material/filter_alt:"
        )
    else:
        st.error(
            f"{bad:,} of {found['rows']:,} rows cannot be used. Correct the file, choose other "
            "columns, or tick “Leave out bad rows”.",
            icon=":material/error:",
        )
    if problems:
        st.dataframe(
            pd.DataFrame(problems),
            hide_index=True,
            column_config={
                "reason": st.column_config.TextColumn("Rows"),
                "rows": st.column_config.NumberColumn("Count", format="localized"),
                "example": st.column_config.TextColumn("The first of them", width="large"),
            },
            alt="Why rows cannot be used",
        )
    _show_kept(kept)
    for warning in found["report"]["warnings"]:
        st.text(f"Note: {warning}")
    return not problems or dropping


def _show_kept(kept: dict[str, Any]) -> None:
    shown = {
        "Users kept": formatting.count(kept["users"]),
        "Items kept": formatting.count(kept["items"]),
        "Records kept": formatting.count(kept["records"]),
        "Records each (median)": f"{kept['rows_per_user']['median']:,.0f}",
        "Mean outcome": f"{kept['mean_outcome']:.2f}",
    }
    for column, (label, value) in zip(st.columns(len(shown)), shown.items(), strict=True):
        column.metric(label, value, border=True)


def _queue(start: Callable[[], engine.Job]) -> None:
    try:
        job = start()
    except (engine.PumaError, OSError) as error:
        page_states.failed("The import was not started.", error)
        return
    for key in ("upload-kept", "upload-items-kept", "checked"):
        st.session_state.pop(key, None)
    st.success(f"The import is queued as job {job.id}; it goes on if you leave this page.")
