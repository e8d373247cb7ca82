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
    """Options of a table."""

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
    "column": "FIELD=COLUMN for user_id, item_id, outcome, text, time or history; may be repeated.",
    "items_path": "File of items, if it is not in the same folder as the ratings.",
    "item_column": "FIELD=COLUMN for item_id and text of the file of items; may be repeated.",
    "drop_invalid": "Drop rows that cannot be used and report them by reason, instead of refusing the file.",
    "min_rows": "Minimum rows of a user (mind: in train).",
    "max_rows": "Maximum rows of a user: the latest ones (mind: a random draw from train).",
    "time_unit": "Unit of numeric times: s or ms.",
    "history_separator": "Separator between the item ids of a history.",
    "delimiter": "Delimiter of a CSV file.",
    "encoding": "Text encoding of a CSV file.",
}


@dataclass(frozen=True)
class FilterOptions:
    """Filters of amazon, yelp, mind and movielens, read from their original files."""

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
    "max_bad_share": "Maximum share of lines that cannot be used, 0 to 1 (a table: 0).",
    "min_item_rows": "Minimum ratings of an item.",
    "max_categories": "yelp: maximum categories in the text of an item.",
    "without_averages": "yelp: leave average stars and review counts out of item texts.",
    "min_history": "mind: minimum news in a user's history.",
    "min_clicks": "mind: minimum clicks of a user in train.",
    "min_test_rows": "mind: minimum rows of a user in dev.",
    "max_test_rows": "mind: maximum rows of a user in dev.",
    "max_click_share": "mind: maximum share of clicks among the rows of a user who is capped.",
    "max_history": "mind: maximum titles drawn from the history for each row.",
    "max_history_characters": "mind: maximum characters of the drawn titles; longer rows are dropped.",
    "max_users": "mind: maximum users, drawn with the seed, unless --users is given.",
}


@app.command("import")
@with_settings(table=TableOptions, filters=FilterOptions)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="goodbooks, goodbooks-to-read, movietweetings (shipped); amazon, yelp, mind, "
            "movielens (from your files); or table."
        ),
    ],
    table: dict[str, Any],
    filters: dict[str, Any],
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of the original files (default: the shipped ones), the file of ratings, "
            "or the CSV or Parquet file of a table."
        ),
    ] = None,
    users: Annotated[
        int | None, typer.Option("--users", help="Number of users to draw (default: all).")
    ] = None,
    population: Annotated[
        str,
        typer.Option(
            "--population",
            help="product, or foundation (the users that the zoo was pre-trained on).",
        ),
    ] = "product",
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    name: Name = None,
    queue: Queue = False,
) -> None:
    """Import interactions and split them into train, validation and test rows."""
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
    """Return the given options under the names that the stage takes."""
    settings = {name: v for name, v in given.items() if v is not False and v != []}
    for option, field in (("column", "columns"), ("item_column", "item_columns")):
        if option in settings:
            settings[field] = columns_of(settings.pop(option))
    if "items_path" in settings:
        settings["items_path"] = str(settings["items_path"].resolve())
    return settings


def columns_of(given: list[str]) -> dict[str, str]:
    """Return FIELD=COLUMN options as a dictionary."""
    pairs = [text.partition("=") for text in given]
    wrong = [field for field, sign, column in pairs if not (field and sign and column)]
    if wrong:
        raise typer.BadParameter(f"A column is given as FIELD=COLUMN, not {wrong[0]!r}.")
    return {field: column for field, _, column in pairs}


@app.command("check")
@with_settings(table=TableOptions)
def check(
    path: Annotated[Path, typer.Argument(help="CSV or Parquet file of a table.")],
    table: dict[str, Any],
) -> None:
    """Check a table without importing it: what would be imported, and what is wrong.

    Exits with 1 if an import with these options would be refused.
    """
    from puma_engine.datasets import check_table

    settings = table_settings(table)
    drop_invalid = bool(settings.pop("drop_invalid", False))
    if "task" not in settings:
        raise ConfigError("A table needs a task: give --task rating or --task click.")
    result = check_table(path, **settings)
    if session().as_json:
        session().json(result)
    else:
        session().table([vars(problem) for problem in result.problems])
        session().show(
            {"rows_read": result.rows, "refusal": result.refusal, "kept": result.statistics}
        )
    if result.refusal or (result.problems and not drop_invalid):
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
    """Show the contents of a data set and the rows that its import dropped."""
    from puma_engine.pipeline import find

    session().show(find(session().open(), dataset, "dataset"))
