"""puma data: bring interactions into the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from puma_engine.cli.session import session
from puma_engine.cli.settings import HELP, Name, Queue, with_settings
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
    "items_path": "Second table, with item_id and text.",
    "item_column": "FIELD=COLUMN for item_id and text of the second table; repeat it.",
    "drop_invalid": "Drop bad rows and report them.",
    "min_rows": "Leave out users with fewer rows.",
    "max_rows": "Keep so many rows a user, the latest.",
    "time_unit": "s or ms.",
    "history_separator": "Between the item ids of a history.",
    "delimiter": "Of a CSV file.",
    "encoding": "Of a CSV file.",
}


@app.command("import")
@with_settings(table=TableOptions)
def import_(
    source: Annotated[
        str,
        typer.Argument(help="goodbooks, goodbooks-to-read, movietweetings, or table."),
    ],
    table: dict[str, Any],
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a named set's original files (default: the shipped ones), or the CSV "
            "or Parquet file of a table."
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
        **table_settings(table),
    )


def table_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a table as the stage takes them."""
    found = {name: value for name, value in given.items() if value not in ([], False)}
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
    """List the named data sets that ship with the checkout."""
    from puma_engine.datasets import REGISTRY

    rows = [
        {"name": source.name, "task": source.task, "about": source.about}
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
