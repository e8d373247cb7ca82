"""puma adapters: adapters of migrations as folders and on the hub."""

from pathlib import Path

import typer

from puma_engine.cli.options import with_options
from puma_engine.cli.session import session

app = typer.Typer(name="adapters", help="Adapters as folders and on the hub.")


@app.command()
@with_options(
    "migration", migration="Migration run: id, prefix or name.", out="New folder to write."
)
def export(migration: str, out: Path, licence: str | None = None) -> None:
    """Write a migration's adapter to a folder in the hub's conventions, with a model card."""
    from puma_engine.pipeline import export_adapter

    folder = export_adapter(session.open(), migration, out, licence=licence)
    session.show({"folder": str(folder)})


@app.command()
@with_options(
    "folder",
    "repo",
    folder="Folder made by puma adapters export.",
    repo="owner/name on the hub.",
    public="Make a new repository public (default: private).",
)
def push(folder: Path, repo: str, public: bool = False) -> None:
    """Upload an adapter's folder to the hub; the token is HF_TOKEN or that of `hf auth login`."""
    from puma_engine.exchange.adapter_folders import push_to_hub

    session.show({"commit": push_to_hub(folder, repo, private=not public)})


@app.command()
@with_options("adapter", adapter="Folder, or owner/name of the hub.")
def show(adapter: str, revision: str | None = None) -> None:
    """Show the models that an adapter maps from and to; fetch it if it is on the hub."""
    from puma_engine.exchange.adapter_folders import read_adapter

    content = read_adapter(adapter, revision)
    parameters = sum(tensor.size for tensor in content.tensors.values())
    session.show(content.config | {"parameters": parameters, "revision": content.revision})
