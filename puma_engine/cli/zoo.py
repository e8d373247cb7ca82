"""puma zoo: the small backbones that ship with the checkout."""

import typer

from puma_engine.cli.session import session
from puma_engine.errors import ConfigError

app = typer.Typer(name="zoo", help="The small backbones that ship with the checkout.")
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
    session.table(shown, raw=rows)


@app.command(
    "build",
    hidden=True,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def build() -> None:
    """Say where the command that built the zoo went."""
    raise ConfigError(
        "`puma zoo build` is gone; in a checkout, `python -m research.zoo --only NAME` builds a model."
    )
