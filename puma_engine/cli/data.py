"""puma data: bring interactions into the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from puma_engine.cli.config_options import HELP, Name, Queue, with_settings
from puma_engine.cli.session import session
from puma_engine.errors import ConfigError

app = typer.Typer(help="Bring interactions into the workspace.", no_args_is_help=True)


@dataclass(frozen=True)
class TableOptions:
    """What a table needs besides its path."""

    task: str
    column: list[str]
    items_path: Path
    item_column: list[str]
    drop_invalid: bool
    min_rows: int
    max_rows: int
    time_unit: str
    history_separator: str
    delimiter: str
    encoding: str


HELP[TableOptions] = {
    "task": "rating or click.",
    "column": "FIELD=COLUMN for user_id, item_id, outcome, text, time, history; repeat it.",
    "items_path": "File of items: a table's second one, or where it is not beside the ratings.",
    "item_column": "FIELD=COLUMN for item_id and text of the second table; repeat it.",
    "drop_invalid": "Drop bad rows and report them.",
    "min_rows": "Leave out users with fewer rows (mind: in train).",
    "max_rows": "Keep so many rows a user, the latest (mind: of train, a draw).",
    "time_unit": "s or ms.",
    "history_separator": "Between the item ids of a history.",
    "delimiter": "Of a CSV file.",
    "encoding": "Of a CSV file.",
}


@dataclass(frozen=True)
class FilterOptions:
    """What else the original files of amazon, yelp, mind and movielens can be told."""

    max_bad_share: float
    min_item_rows: int
    max_categories: int
    without_averages: bool
    min_history: int
    min_clicks: int
    min_test_rows: int
    max_test_rows: int
    max_click_share: float
    max_history: int
    max_history_characters: int
    max_users: int


HELP[FilterOptions] = {
    "max_bad_share": "Share of the lines that may be unusable, 0 to 1 (a table's default: none).",
    "min_item_rows": "Leave out items with fewer ratings.",
    "max_categories": "yelp: categories in an item's text.",
    "without_averages": "yelp: no average stars and review counts in item texts.",
    "min_history": "mind: news in a user's history.",
    "min_clicks": "mind: clicks of a user in train.",
    "min_test_rows": "mind: rows of a user in dev.",
    "max_test_rows": "mind: keep so many rows a user of dev.",
    "max_click_share": "mind: share of clicks among the kept rows of busy users.",
    "max_history": "mind: titles drawn from the history for each row.",
    "max_history_characters": "mind: drop rows whose drawn titles are longer.",
    "max_users": "mind: a seeded draw of so many users, unless --users is given.",
}


@app.command("import")
@with_settings(table=TableOptions, filters=FilterOptions)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="goodbooks, goodbooks-to-read, movietweetings (shipped); amazon, yelp, mind, "
            "movielens (your files); or table."
        ),
    ],
    table: dict[str, Any],
    filters: dict[str, Any],
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a set's original files (default: the shipped ones) or its file of "
            "ratings, or the CSV or Parquet file of a table."
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option("--users", help="Seeded subset of so many users (default: all).")
    ] = None,
    population: Annotated[
        str,
        typer.Option("--population", help="product, or foundation (users the zoo learnt from)."),
    ] = "product",
    seed: Annotated[int, typer.Option("--seed", help="Seed of every draw.")] = 0,
    name: Name = None,
    queue: Queue = False,
) -> None:
    """Read interactions, split them into train, validation and test, and keep them."""
    session().do(
        "import_dataset",
        f"importing {source}",
        queue=queue,
        source=source,
        path=None if path is None else str(path.resolve()),
        users=users,
        population=population,
        seed=seed,
        name=name,
        **table_settings({**table, **filters}),
    )


def table_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a table or of original files as the stage takes them."""
    found = {name: v for name, v in given.items() if v is not False and v != []}
    for option, field in (("column", "columns"), ("item_column", "item_columns")):
        if option in found:
            found[field] = columns_of(found.pop(option))
    if "items_path" in found:
        found["items_path"] = str(found["items_path"].resolve())
    return found


def columns_of(given: list[str]) -> dict[str, str]:
    """Return FIELD=COLUMN options as a dictionary."""
    pairs = [text.partition("=") for text in given]
    wrong = [field for field, sign, column in pairs if not (field and sign and column)]
    if wrong:
        raise typer.BadParameter(f"Columns are given as FIELD=COLUMN, not {wrong[0]!r}.")
    return {field: column for field, _, column in pairs}


@app.command("check")
@with_settings(table=TableOptions)
def check(
    path: Annotated[Path, typer.Argument(help="CSV or Parquet file of a table.")],
    table: dict[str, Any],
) -> None:
    """Say what importing a table would keep and what is wrong with it; keeps nothing.

    Ends with 1 if the import with these options would be refused.
    """
    from puma_engine.datasets import check_table

    settings = table_settings(table)
    dropping = bool(settings.pop("drop_invalid", False))
    if "task" not in settings:
        raise ConfigError("A table needs a task: give --task rating or --task click.")
    found = check_table(path, **settings)
    if session().as_json:
        session().json(found)
    else:
        session().table([vars(problem) for problem in found.problems])
        session().show(
            {"rows_read": found.rows, "refusal": found.refusal, "kept": found.statistics}
        )
    if found.refusal or (found.problems and not dropping):
        raise typer.Exit(1)


@app.command("sources")
def sources() -> None:
    """List the named data sets: those that ship with the checkout, and those you bring."""
    from puma_engine.datasets import REGISTRY

    rows = [
        {
            "name": source.name,
            "task": source.task,
            "files": "shipped" if source.shipped else "yours",
            "about": source.about,
        }
        for source in REGISTRY.values()
    ]
    session().table(rows)


@app.command("list")
def list_() -> None:
    """List the data sets of the workspace."""
    runs = session().open().runs(kind="dataset")
    rows = [
        {"id": run.id, "name": run.name, "status": run.status}
        | {key: run.summary.get(key) for key in ("task", "users", "items", "interactions")}
        for run in runs
    ]
    session().table(rows, raw=runs)


@app.command("show")
def show(
    dataset: Annotated[str, typer.Argument(help="Data set: id, prefix or name.")],
) -> None:
    """Show what a data set holds, and what its import kept and dropped."""
    from puma_engine.pipeline import find

    session().show(find(session().open(), dataset, "dataset"))
