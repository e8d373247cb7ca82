"""Dispatch: where work runs, in this process or on a Ray cluster. Only this module decides."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from puma_engine.errors import ConfigError, JobError
from puma_engine.requests import CLUSTER_REQUESTS
from puma_engine.store import Workspace
from puma_engine.training import distributed

if TYPE_CHECKING:
    from puma_engine.jobs.cluster import Cluster

# Environment variable with the cluster of work that names none, such as a worker's jobs.
VARIABLE = "PUMA_ON"
Commands = Mapping[str, Callable[..., Any]]
_ADDRESS = re.compile(r"ray|(ray://)?[^\s/:]+:[0-9]{1,5}|ray://\[[0-9a-fA-F:]+\]:[0-9]{1,5}")


def cluster_address(on: str | None) -> str | None:
    """Return the address of the cluster that computes: `on`, else PUMA_ON; None for this machine."""
    return on or os.environ.get(VARIABLE) or None


def checked_address(on: str) -> str:
    """Return the address of a cluster. Raises JobError if it is none."""
    if not _ADDRESS.fullmatch(on):
        raise JobError(
            f"{on!r} is not an address of a cluster; leave it out for this machine, or give ray, ray://HOST:PORT or "
            "HOST:PORT for a Ray cluster."
        )
    return on


def run_command(
    ws: Workspace,
    command: str,
    *,
    on: str | None = None,
    workers: int | None = None,
    commands: Commands | None = None,
    progress: Any = None,
    should_cancel: Any = None,
    **arguments: Any,
) -> Any:
    """Run a command and return its run or runs.

    commands: what may be run here (default: `puma_engine.pipeline.COMMANDS`). on: None for this
    machine, or what PUMA_ON names; "ray", ray://HOST:PORT or HOST:PORT for a Ray cluster, which
    computes the runs of the commands in `requests.CLUSTER_REQUESTS` (others run here, and are
    refused if `on` is given). workers: processes that train one run together there, see
    `cluster.Cluster`. Raises JobError, ConfigError, and what the command raises.
    """
    if commands is None:
        # Loaded late: a page that queues a job needs no pipeline.
        commands = importlib.import_module("puma_engine.pipeline").COMMANDS
    if command not in commands:
        raise JobError(f"There is no command {command!r}; there are {', '.join(sorted(commands))}.")
    if on is not None and command not in CLUSTER_REQUESTS:
        raise JobError(
            f"The command {command!r} runs on this machine alone; a cluster takes "
            f"{', '.join(sorted(CLUSTER_REQUESTS))}."
        )
    callbacks = {"progress": progress, "should_cancel": should_cancel}
    device = arguments.get("device")
    cluster = open_cluster(on, device, workers) if command in CLUSTER_REQUESTS else None
    if cluster is None:
        return commands[command](ws, **callbacks, **arguments)
    arguments.pop("device", None)
    with cluster:
        return cluster.run(ws, command, arguments, **callbacks)


def open_cluster(
    on: str | None, device: str | None = None, workers: int | None = None
) -> Cluster | None:
    """Return a connection to the cluster that `on` names, or PUMA_ON; None for this machine.

    device, workers: what each run gets there, see `cluster.Cluster`. Raises JobError, ConfigError.
    """
    address = cluster_address(on)
    if address is None:
        if workers not in (None, 1):
            raise ConfigError(
                f"{workers} workers train together on a cluster; name it with --on, or start the command on "
                "this machine with torchrun or accelerate launch."
            )
        return None
    if distributed.world_size() > 1:
        raise ConfigError(
            "A cluster computes for one process; run the command without a launcher, or without --on and "
            f"{VARIABLE}."
        )
    # Loaded late, since it loads the pipeline.
    from puma_engine.jobs.cluster import Cluster

    return Cluster(checked_address(address), device=device, workers=workers)
