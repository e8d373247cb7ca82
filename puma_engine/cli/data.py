"""puma data: bring interactions into the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from puma_engine.cli.session import session
from puma_engine.cli.settings import Name, Queue

app = typer.Typer(help="Bring interactions into the workspace.", no_args_is_help=True)
_TABLE: Any = {"rich_help_panel": "Settings of a table"}


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(help="goodbooks, goodbooks-to-read, movietweetings, or table."),
    ],
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
    task: Annotated[str | None, typer.Option(help="rating or click.", **_TABLE)] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="FIELD=COLUMN for user_id, item_id, outcome, text, time, history; repeat it.",
            **_TABLE,
        ),
    ] = None,
    items_path: Annotated[
        Path | None, typer.Option(help="Second table, with item_id and text.", **_TABLE)
    ] = None,
    item_column: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=COLUMN for item_id and text of the second table.", **_TABLE),
    ] = None,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Drop bad rows and report them.", **_TABLE)
    ] = False,
    min_rows: Annotated[
        int | None, typer.Option(help="Leave out users with fewer rows.", **_TABLE)
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(help="Keep so many rows a user, the latest.", **_TABLE)
    ] = None,
    time_unit: Annotated[str | None, typer.Option(help="s or ms.", **_TABLE)] = None,
    history_separator: Annotated[
        str | None, typer.Option(help="Between the item ids of a history.", **_TABLE)
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of a CSV file.", **_TABLE)] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a CSV file.", **_TABLE)] = None,
) -> None:
    """Read interactions, split them into train, validation and test, and keep them."""
    table = {
        "task": task,
        "columns": columns_of(column),
        "items_path": None if items_path is None else str(items_path.resolve()),
        "item_columns": columns_of(item_column),
        "drop_invalid": drop_invalid or None,
        "min_rows": min_rows,
        "max_rows": max_rows,
        "time_unit": time_unit,
        "history_separator": history_separator,
        "delimiter": delimiter,
        "encoding": encoding,
    }
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
        **{key: value for key, value in table.items() if value is not None},
    )


def columns_of(given: list[str] | None) -> dict[str, str] | None:
    """Return FIELD=COLUMN options as a dictionary, None if there are none."""
    if not given:
        return None
    pairs = [text.partition("=") for text in given]
    wrong = [field for field, sign, column in pairs if not (field and sign and column)]
    if wrong:
        raise typer.BadParameter(f"Columns are given as FIELD=COLUMN, not {wrong[0]!r}.")
    return {field: column for field, _, column in pairs}


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
