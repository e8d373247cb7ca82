"""puma serve-adapter, select-stream, migrate-stream and evaluate-stream: adapters over HTTP and in bulk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from puma_engine.cli.options import HELP, with_options
from puma_engine.cli.session import session
from puma_engine.defaults import CLUSTERS, MIN_CLUSTER, PAPER_STRATEGY, STRATA
from puma_engine.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from puma_engine.exchange.packed import PromptShards
    from puma_engine.exchange.storage import Folder
    from puma_engine.jobs.cluster import Cluster
    from puma_engine.pipeline.stage import Execution
    from puma_engine.serving.mapper import Mapper

ACTORS: dict[str, object] = {
    "help": "Actors that work on shards at the same time on a cluster (default: as many as have room).",
    "min": 1,
}
TOKEN = "PUMA_SERVE_TOKEN"
MIN_TOKEN = 16
ADAPTER = "Folder, migration run, or owner/name of the hub."
SHARDS = "Folder or URL (s3://, gs://, hdfs://) of .safetensors or .parquet shards"


@with_options(
    "adapter",
    adapter=ADAPTER,
    host="Address to listen on.",
    port={"help": "Port.", "min": 1, "max": 65535},
    max_users={"help": "Users a request.", "min": 1},
    max_bytes={"help": "Bytes of a request's body.", "min": 1024},
    max_waiting={"help": "Requests in work; further ones get 503.", "min": 1},
    max_tokens={"help": "Tokens a request, over all its users.", "min": 1},
    max_connections={"help": "Open connections; a new one closes the oldest slow one.", "min": 1},
    request_seconds={"help": "Seconds that a request may take to arrive.", "min": 1},
    allowed_hosts="Names that clients call this server by, separated by commas.",
)
def serve_adapter(
    adapter: str,
    host: str = "127.0.0.1",
    port: int = 8600,
    max_users: int = 4096,
    max_bytes: int = 64 << 20,
    max_waiting: int = 16,
    max_tokens: int = 65_536,
    max_connections: int = 256,
    request_seconds: float = 30.0,
    allowed_hosts: str | None = None,
    revision: str | None = None,
    device: str | None = None,
) -> None:
    """Migrate prompts on demand over HTTP; set PUMA_SERVE_TOKEN to require a token."""
    token = os.environ.get(TOKEN)
    if token is not None and len(token) < MIN_TOKEN:
        raise ConfigError(f"{TOKEN} must have {MIN_TOKEN} characters or more.")
    if host not in ("127.0.0.1", "::1", "localhost") and token is None:
        raise ConfigError(f"To listen on {host}, set {TOKEN} to a token that clients must send.")
    import uvicorn

    from puma_engine.serving.connections import ConnectionLimits, server_config
    from puma_engine.serving.hosts import AllowedHosts, added_hosts
    from puma_engine.serving.http import Limits, ServerMetrics, build_app

    limits = Limits(max_users, max_bytes, max_waiting, max_tokens, request_seconds)
    hosts, counters = AllowedHosts(host, added_hosts(allowed_hosts)), ServerMetrics()
    mapper = _mapper(adapter, revision, device)
    app = build_app(mapper, token=token, limits=limits, hosts=hosts, counters=counters)
    connections = ConnectionLimits(max_connections, request_seconds)
    config = server_config(app, connections, dropped=counters.count_dropped, host=host, port=port)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run()


@with_options(
    "source",
    "target",
    source=f"{SHARDS} with user ids.",
    target="Folder or URL to write the chosen users' prompts to.",
    budget={"help": "Users to choose.", "min": 1},
    strategy="A strategy of puma select that reads no activations.",
    signals="Parquet file: user_id, and variance, loss or activity.",
    on=f"{HELP['on']} Its nodes read the shards, which all must see.",
    actors=ACTORS,
)
def select_stream(
    source: str,
    target: str,
    budget: int,
    strategy: str = PAPER_STRATEGY,
    signals: Path | None = None,
    seed: int = 0,
    clusters: int = CLUSTERS,
    strata: int = STRATA,
    min_cluster: int = MIN_CLUSTER,
    on: str | None = None,
    actors: int | None = None,
) -> None:
    """Select users from sharded prompts, block by block; write their prompts as a packed table."""
    from puma_engine.exchange.packed import PromptShards
    from puma_engine.serving.bulk import select_stream as stream

    with _over_shards(f"selecting from {Path(source).name}", on, "cpu", actors) as (
        execution,
        cluster,
    ):
        open_prompts: Callable[[Folder], PromptShards] = PromptShards
        if cluster is not None:
            from puma_engine.serving.cluster_bulk import PromptsOnCluster

            open_prompts = partial(
                PromptsOnCluster, cluster=cluster, execution=execution, actors=actors
            )
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
            open_prompts=open_prompts,
        )
    session.show(result | {"folder": target})


@with_options(
    "source",
    "target",
    source=f"{SHARDS}.",
    target="Folder or URL to write; run again to resume.",
    adapter=ADAPTER,
    chunk_rows={"help": "Prompts in memory, of each actor on a cluster.", "min": 1},
    dtype="Numbers of mapped prompts: float32, or float16 for half the bytes.",
    on=f"{HELP['on']} Its nodes must see both folders under the same path.",
    actors=ACTORS,
)
def migrate_stream(
    source: str,
    target: str,
    adapter: str,
    chunk_rows: int = 4096,
    dtype: str = "float32",
    revision: str | None = None,
    device: str | None = None,
    on: str | None = None,
    actors: int | None = None,
) -> None:
    """Migrate sharded prompts in constant memory; run it again to resume after the last full shard."""
    from puma_engine.serving.bulk import migrate_stream as stream

    with _over_shards(f"migrating {Path(source).name}", on, device, actors) as (execution, cluster):
        mapper = _mapper(adapter, revision, device if cluster is None else "cpu")
        map_shards = None
        if cluster is not None:
            from puma_engine.serving.cluster_bulk import ShardsOnCluster

            map_shards = ShardsOnCluster(cluster, mapper, execution, actors=actors)
        result = stream(
            mapper,
            source,
            target,
            chunk_rows=chunk_rows,
            dtype=dtype,
            report=partial(_report, execution),
            should_cancel=execution.should_cancel,
            map_shards=map_shards,
        )
    session.show(result | {"folder": target})


@with_options(
    "source",
    "target",
    source=f"{SHARDS} with user ids.",
    target="Folder or URL to write scores to; run again to resume.",
    like="Migration or prompts run whose model, template and head read the prompts.",
    dataset="Data set with the rows (default: the run's).",
    on=f"{HELP['on']} Its nodes must see both folders under the same path, and the model.",
    actors=ACTORS,
)
def evaluate_stream(
    source: str,
    target: str,
    like: str,
    dataset: str | None = None,
    split: str = "test",
    device: str | None = None,
    on: str | None = None,
    actors: int | None = None,
) -> None:
    """Score the prompts of shards, one shard at a time; run it again to resume after the last one."""
    from puma_engine.serving.bulk_evaluation import evaluate_stream as stream

    ws = session.open()
    with _over_shards(f"evaluating {Path(source).name}", on, device, actors) as (
        execution,
        cluster,
    ):
        do_pieces = None
        if cluster is not None:
            from puma_engine.serving.cluster_bulk import ShardsScoredOnCluster

            do_pieces = ShardsScoredOnCluster(cluster, execution, actors=actors)
        result = stream(
            ws,
            source,
            target,
            like,
            dataset=dataset,
            split=split,
            device=device,
            report=partial(_report, execution),
            should_cancel=execution.should_cancel,
            do_pieces=do_pieces,
        )
    session.show(result | {"folder": target})


@contextmanager
def _over_shards(
    title: str, on: str | None, device: str | None, actors: int | None
) -> Iterator[tuple[Execution, Cluster | None]]:
    """Context manager: show the progress of work over shards; yield its execution, and the cluster or None."""
    from puma_engine.cli.progress_bars import watched
    from puma_engine.jobs.dispatch import open_cluster
    from puma_engine.pipeline.stage import Execution

    cluster = open_cluster(on, device)
    if cluster is None and actors is not None:
        raise ConfigError("--actors counts actors on a cluster; name it with --on.")
    with (
        watched(title, quiet=session.as_json) as (progress, should_cancel),
        cluster or nullcontext(),
    ):
        yield Execution(None, progress, should_cancel), cluster


def _report(execution: Execution, name: str, step: int, total: int) -> None:
    from puma_engine.pipeline.stage import StageProgress

    if execution.progress is not None:
        execution.progress(StageProgress(name, step=step, total=total))


def _mapper(spec: str, revision: str | None, device: str | None) -> Mapper:
    from puma_engine.serving.mapper import Mapper, adapter_of

    try:
        ws = session.open()
    except StoreError:
        ws = None
    return Mapper(adapter_of(ws, spec, revision), device)
