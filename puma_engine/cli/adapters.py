"""puma adapters: the networks that migrations trained, as folders and on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puma_engine.cli.session import session

app = typer.Typer(help="Adapters as folders and on the hub.", no_args_is_help=True)
Migration = Annotated[str, typer.Argument(help="Migration run: id, prefix or name.")]
Licence = Annotated[
    str | None, typer.Option("--licence", help="SPDX id for the card (default: the data's).")
]


@app.command("export")
def export(
    migration: Migration,
    out: Annotated[Path, typer.Option("--out", help="New folder to write.")],
    licence: Licence = None,
) -> None:
    """Write a migration's adapter to a folder in the hub's conventions, with a model card."""
    from puma_engine.pipeline import export_adapter

    folder = export_adapter(session().open(), migration, out, licence=licence)
    session().show({"folder": str(folder)})


@app.command("push")
def push(
    folder: Annotated[Path, typer.Argument(help="Folder made by puma adapters export.")],
    repo: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public (default: private).")
    ] = False,
) -> None:
    """Put an adapter's folder on the hub; the token is HF_TOKEN or that of `hf auth login`."""
    from puma_engine.exchange.adapter_folders import push_to_hub

    session().show({"commit": push_to_hub(folder, repo, private=not public)})


@app.command("show")
def show(
    adapter: Annotated[str, typer.Argument(help="Folder, or owner/name of the hub.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")
    ] = None,
) -> None:
    """Fetch an adapter where it is on the hub, and show what it maps from and to."""
    from puma_engine.exchange.adapter_folders import read_adapter

    content = read_adapter(adapter, revision)
    parameters = sum(tensor.size for tensor in content.tensors.values())
    session().show(content.config | {"parameters": parameters, "revision": content.revision})
