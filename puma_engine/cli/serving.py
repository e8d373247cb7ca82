"""puma serve-adapter, select-stream and migrate-stream: adapters over HTTP and in bulk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from puma_engine.cli.config_options import Device
from puma_engine.cli.migration import Clusters, Groups, MinCluster, Seed, Strata
from puma_engine.cli.session import session
from puma_engine.defaults import PAPER_STRATEGY
from puma_engine.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from puma_engine.serving.mapper import Mapper

TOKEN = "PUMA_SERVE_TOKEN"
MIN_TOKEN = 16
LOCAL = ("127.0.0.1", "::1", "localhost")
AdapterHelp = "Folder, migration run, or owner/name of the hub."
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("serve-adapter")(serve_adapter)
    app.command("select-stream")(select_stream)
    app.command("migrate-stream")(migrate_stream)


def serve_adapter(
    adapter: Annotated[str, typer.Argument(help=AdapterHelp)],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")] = 8600,
    max_users: Annotated[int, typer.Option("--max-users", min=1, help="Users a request.")] = 4096,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", min=1024, help="Bytes of a request's body.")
    ] = 64 << 20,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Requests in work; further ones get 503.")
    ] = 16,
    revision: Revision = None,
    device: Device = None,
) -> None:
    """Migrate prompts on demand over HTTP; set PUMA_SERVE_TOKEN to require a token."""
    token = os.environ.get(TOKEN)
    if token is not None and len(token) < MIN_TOKEN:
        raise ConfigError(f"{TOKEN} must have {MIN_TOKEN} characters or more.")
    if host not in LOCAL and token is None:
        raise ConfigError(f"To listen on {host}, set {TOKEN} to a token that clients must send.")
    import uvicorn

    from puma_engine.serving.http import Limits, build_app

    limits = Limits(max_users, max_bytes, max_waiting)
    app = build_app(_mapper(adapter, revision, device), token=token, limits=limits)
    uvicorn.run(app, host=host, port=port, log_level="warning")


def select_stream(
    source: Annotated[Path, typer.Argument(help="Folder of .safetensors shards with user ids.")],
    target: Annotated[Path, typer.Argument(help="Folder to write the chosen users' prompts to.")],
    budget: Annotated[int, typer.Option("--budget", min=1, help="Users to choose.")],
    strategy: Annotated[
        str,
        typer.Option("--strategy", help="A strategy of puma select that reads no activations."),
    ] = PAPER_STRATEGY,
    signals: Annotated[
        Path | None,
        typer.Option("--signals", help="Parquet file: user_id, and variance, loss or activity."),
    ] = None,
    seed: Seed = 0,
    clusters: Clusters = 15,
    strata: Strata = 5,
    min_cluster: MinCluster = 50,
    groups: Groups = None,
) -> None:
    """Select users from sharded prompts, block by block; write their prompts as a packed table."""
    from puma_engine.serving.bulk import select_stream as stream

    result = stream(
        source,
        target,
        budget=budget,
        strategy=strategy,
        signals=signals,
        seed=seed,
        clusters=clusters,
        strata=strata,
        min_cluster=min_cluster,
        groups=groups,
    )
    session().show(result | {"folder": str(target)})


def migrate_stream(
    source: Annotated[Path, typer.Argument(help="Folder of .safetensors shards with vectors.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; run again to resume.")],
    adapter: Annotated[str, typer.Option("--adapter", help=AdapterHelp)],
    chunk_rows: Annotated[
        int, typer.Option("--chunk-rows", min=1, help="Prompts in memory.")
    ] = 4096,
    revision: Revision = None,
    device: Device = None,
) -> None:
    """Migrate sharded prompts in constant memory; run it again to resume after the last full shard."""
    from puma_engine.cli.progress_bars import watched
    from puma_engine.pipeline.stage import StageProgress
    from puma_engine.serving.bulk import migrate_stream as stream

    mapper = _mapper(adapter, revision, device)
    with watched(f"migrating {source.name}", quiet=session().as_json) as (progress, should_cancel):

        def report(name: str, number: int, total: int) -> None:
            if progress is not None:
                progress(StageProgress(name, step=number, total=total))

        result = stream(
            mapper,
            source,
            target,
            chunk_rows=chunk_rows,
            report=report,
            should_cancel=should_cancel,
        )
    session().show(result | {"folder": str(target)})


def _mapper(spec: str, revision: str | None, device: str | None) -> Mapper:
    from puma_engine.serving.mapper import Mapper, adapter_of

    try:
        ws = session().open()
    except StoreError:
        ws = None
    return Mapper(adapter_of(ws, spec, revision), device)
