"""puma zoo: the small backbones that ship with the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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


@app.command("build")
def build(
    names: Annotated[
        list[str] | None, typer.Argument(help="Backbones to build (default: those that ship).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the zoo (default: the shipped one).")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    users: Annotated[
        int | None, typer.Option("--users", help="At most so many foundation users, for trials.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Training steps (default: the recipe's).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed (default: the recipe's).")
    ] = None,
) -> None:
    """Pre-train the zoo's backbones on the foundation users; use a GPU."""
    from puma_engine.cli.progress import watched
    from puma_engine.zoo import SHIPPED, get_entry
    from puma_engine.zoo.build import build_model
    from puma_engine.zoo.recipe import Recipe

    given: dict[str, Any] = {"steps": steps, "seed": seed}
    recipe = Recipe(**{key: value for key, value in given.items() if value is not None})
    chosen = [get_entry(name).name for name in names or SHIPPED]
    cards = []
    for name in chosen:
        with watched(f"building {name}", quiet=session().as_json) as (progress, should_cancel):
            built = build_model(
                name,
                out=out,
                recipe=recipe,
                device=device,
                users=users,
                progress=progress,
                should_cancel=should_cancel,
            )
        cards.append(built.card | {"folder": str(built.folder)})
    rows = [
        {"name": card["name"], "seconds": card["seconds"], "folder": card["folder"]}
        for card in cards
    ]
    session().table(rows, raw=cards)
