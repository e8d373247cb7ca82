"""puma zoo: the small backbones that ship with the checkout."""

from __future__ import annotations

import typer

from puma_engine.cli.session import session

app = typer.Typer(help="The small backbones that ship with the checkout.", no_args_is_help=True)
COLUMNS = ("name", "family", "role", "width", "layers", "parameters", "tokenizer", "built")


@app.command("list")
def list_() -> None:
    """List the zoo's backbones and whether their weights are here."""
    from puma_engine.pipeline import list_zoo

    rows = list_zoo()
    shown = [{name: row.get(name) for name in COLUMNS} for row in rows]
    for row in shown:
        if isinstance(row["tokenizer"], dict):
            row["tokenizer"] = row["tokenizer"]["kind"]
    session().table(shown, raw=rows)
