"""puma data: import interactions into the workspace."""

import sys
from pathlib import Path
from typing import Any

import typer

from puma_engine.cli.options import with_options
from puma_engine.cli.session import session
from puma_engine.errors import ConfigError

app = typer.Typer(name="data", help="Bring interactions into the workspace.")
# Options of a table.
TABLE = {
    "task": (str, "rating or click."),
    "column": (
        list[str],
        "FIELD=COLUMN for user_id, item_id, outcome, text, time, history or split (train, "
        "validation or test); may be repeated.",
    ),
    "items_path": (Path, "File of items, if it is not in the same folder as the ratings."),
    "item_column": (
        list[str],
        "FIELD=COLUMN for item_id and text of the file of items; may be repeated.",
    ),
    "id_as_text": (bool, "Take the item ids as the texts of items."),
    "delimiter": (str, "Delimiter of a CSV file; \\t is a tab."),
    "encoding": (str, "Text encoding of a CSV file."),
    "quote": (
        str,
        "Character around quoted values of a CSV file, or none (default: the double quote; none for "
        ".tsv without quoted names).",
    ),
    "no_header": (bool, "The first row is data; columns are named 1, 2, 3."),
    "items_delimiter": (str, "Delimiter of the file of items (default: that of the table)."),
    "items_encoding": (str, "Text encoding of the file of items (default: that of the table)."),
    "items_quote": (str, "Quote of the file of items (default: that of the table)."),
    "items_no_header": (bool, "The first row of the file of items is data."),
    "time_unit": (
        str,
        "Unit of numeric times: s, ms, us or ns; or a date format such as %d/%m/%Y (default: "
        "guessed from the values).",
    ),
    "history_separator": (str, "Separator between the item ids of a history."),
    "scale": (str, "Least and largest rating, mapped to 1 and 5: 1:10, 0.5:5 (default: 1:5)."),
    "not_rated": (float, "Outcome of rows without a rating, such as 0 or -1; they are left out."),
    "click_threshold": (
        float,
        "Outcomes of at least this, such as plays or hours, are clicks, others non-clicks.",
    ),
    "draw_non_clicks": (
        bool,
        "Draw as many non-clicks as clicks, by how often items are clicked, among items that the "
        "user has no row of.",
    ),
    "drop_invalid": (
        bool,
        "Drop rows that cannot be used and report them by reason, instead of refusing the file.",
    ),
    "min_item_rows": (int, "Minimum ratings of an item."),
    "min_rows": (int, "Minimum rows of a user (mind: in train)."),
    "max_rows": (int, "Maximum rows of a user: the latest ones (mind: a random draw from train)."),
    "split_by": (
        str,
        "user holds out the latest rows of each user; time holds out all rows from one time on.",
    ),
}
# Filters of sources that are read from their original files.
FILTERS = {
    "max_bad_share": (float, "Maximum share of lines that cannot be used, 0 to 1 (a table: 0)."),
    "max_categories": (int, "yelp: maximum categories in the text of an item."),
    "without_averages": (bool, "yelp: leave average stars and review counts out of item texts."),
    "min_history": (int, "mind: minimum news in a user's history."),
    "min_clicks": (int, "mind: minimum clicks of a user in train."),
    "min_test_rows": (int, "mind: minimum rows of a user in dev."),
    "max_test_rows": (int, "mind: maximum rows of a user in dev."),
    "max_click_share": (
        float,
        "mind: maximum share of clicks among the rows of a user who is capped.",
    ),
    "max_history": (int, "mind: maximum titles drawn from the history for each row."),
    "max_history_characters": (
        int,
        "mind: maximum characters of the drawn titles; longer rows are dropped.",
    ),
    "max_users": (int, "mind: maximum users, drawn with the seed, unless --users is given."),
}


@app.command("import")
@with_options(
    "source",
    "path",
    groups={"table": TABLE, "filters": FILTERS},
    source="goodbooks, goodbooks-to-read, movietweetings (shipped); amazon, amazon-2018, yelp, mind, "
    "movielens (from your files); or table.",
    path="Folder of the original files (default: the shipped ones), the file of ratings, "
    "or the CSV, Parquet or JSON lines file of a table.",
    users="Number of users to draw (default: all).",
    population="product, or foundation (the users that the zoo was pre-trained on).",
    seed="Random seed.",
)
def import_(
    source: str,
    path: Path | None = None,
    users: int | None = None,
    population: str = "product",
    seed: int = 0,
    name: str | None = None,
    queue: bool = False,
    **settings: Any,
) -> None:
    """Import interactions and split them into train, validation and test rows."""
    session.do(
        "import_dataset",
        f"importing {source if path is None else path.name}",
        queue=queue,
        source=source,
        path=path,
        users=users,
        population=population,
        seed=seed,
        name=name,
        show=_show_import,
        **with_columns(settings),
    )


def _show_import(run: Any) -> None:
    """Print a data set's record, and its warnings where they are not missed."""
    session.show(run)
    for warning in run.summary["report"].get("warnings", []):
        print(f"Warning: {warning}", file=sys.stderr)


def with_columns(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with FIELD=COLUMN options converted to dictionaries."""
    for option in ("column", "item_column"):
        pairs = [text.partition("=") for text in settings.pop(option, [])]
        wrong = [field for field, sign, column in pairs if not (field and sign and column)]
        if wrong:
            raise typer.BadParameter(f"A column is given as FIELD=COLUMN, not {wrong[0]!r}.")
        if pairs:
            settings[f"{option}s"] = {field: column for field, _, column in pairs}
    return settings


@app.command()
@with_options(
    "path",
    groups={"table": TABLE},
    path="CSV, Parquet or JSON lines file of a table.",
    users="Number of users to draw (default: all).",
    max_bad_share=FILTERS["max_bad_share"][1],
)
def check(
    path: Path, users: int | None = None, max_bad_share: float | None = None, **settings: Any
) -> None:
    """Check a table without importing it: what would be imported, and which problems it has.

    Exits with 1 if an import with these options would be refused.
    """
    from puma_engine.datasets import check_table

    drop_invalid = bool(settings.pop("drop_invalid", False))
    if "task" not in settings:
        raise ConfigError("A table needs a task: give --task rating or --task click.")
    result = check_table(path, users=users, max_bad_share=max_bad_share, **with_columns(settings))
    if session.as_json:
        session.json(result)
    else:
        if result.problems:
            session.table([vars(problem) for problem in result.problems])
        session.show(
            {
                "rows_read": result.rows,
                "columns_read": result.columns,
                "refusal": result.refusal,
                "kept": result.statistics,
                "warnings": (result.report or {}).get("warnings"),
            }
        )
    if result.refusal or (result.problems and not (drop_invalid or max_bad_share is not None)):
        raise typer.Exit(1)


@app.command("sources")
def sources() -> None:
    """List the data sets that `puma data import` knows by name."""
    from puma_engine.datasets import REGISTRY

    rows = [
        {
            "name": source.name,
            "task": source.task,
            "files": "shipped" if source.shipped else "yours",
            "about": source.description,
        }
        for source in REGISTRY.values()
    ]
    session.table(rows)


@app.command("list")
def list_() -> None:
    """List the data sets of the workspace."""
    session.list_runs("dataset", "task", "users", "items", "interactions")


@app.command()
@with_options("dataset", dataset="Data set: id, prefix or name.")
def show(dataset: str) -> None:
    """Show the contents of a data set and the rows that its import dropped."""
    from puma_engine.pipeline import find

    session.show(find(session.open(), dataset, "dataset"))
