"""Kill commands at every operation and at random times; afterwards the same command must succeed."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.forking import Command, forked, kill, no_preparation
from benchmarks.reliability.operations import OperationCounter, watch_operations
from benchmarks.reliability.workloads import (
    WORKLOADS,
    Reference,
    Workload,
    add_problems,
    check_whole,
    fresh_workspace,
    run_again,
    template_of,
)

MAX_MOMENTS = 200
AT_OPERATION, AT_RANDOM = "at an operation", "at a random moment"


Planned = tuple[str, str, str, int | float]


def plan(references: dict[str, Reference], kills: int, seed: int) -> list[Planned]:
    """Return kills as workload, kind, role and moment, in the order to try them.

    About half of them are at operations: of all of each process, or of a sample if these are too many.
    The others are at random times, as shares of the undisturbed duration. There are more than
    requested, since a process may end before its kill: behind both are the other operations, which
    are reached on a machine of any speed.
    """
    draw = random.Random(seed)
    operations: list[Planned] = [
        (name, AT_OPERATION, role, moment)
        for name, reference in references.items()
        for role, count in reference.moments.items()
        # A waiting worker reads its queue again and again.
        for moment in draw.sample(range(1, count + 1), min(count, MAX_MOMENTS))
    ]
    draw.shuffle(operations)
    rest: list[Planned] = []
    for _ in range(kills):
        name = draw.choice(list(references))
        role = draw.choice(["all", *references[name].moments])
        rest.append((name, AT_RANDOM, role, draw.random()))
    half = kills // 2 + 1
    both = operations[:half] + rest
    draw.shuffle(both)
    return both + operations[half:]


def tries(
    base: Path,
    references: dict[str, Reference],
    planned: list[Planned],
    place: Path,
    deadline: float,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Try kills in one workspace until the deadline; yield the result of each."""
    draw = random.Random(f"{seed} {place.name}")
    workloads = {workload.name: workload for workload in WORKLOADS}
    for name, kind, role, moment in planned:
        if time.monotonic() > deadline:
            return
        began = time.monotonic()
        row = _try(base, workloads[name], references[name], place, kind, role, moment, draw)
        yield row | {"seconds": round(time.monotonic() - began, 3)}
    shutil.rmtree(place, ignore_errors=True)


def _try(
    base: Path,
    workload: Workload,
    reference: Reference,
    place: Path,
    kind: str,
    role: str,
    moment: int | float,
    draw: random.Random,
) -> dict[str, Any]:
    fresh_workspace(base, workload, place)
    row: dict[str, Any] = {"workload": workload.name, "kind": kind, "role": role, "moment": moment}
    row |= {"kills": 0, "cpu_seconds": 0.0, "problems": {}}

    def count(command: Command) -> None:
        row["kills"] += command.kills
        row["cpu_seconds"] = round(row["cpu_seconds"] + command.cpu_seconds, 3)

    # A job that is killed three times fails on purpose.
    for number in range(1 + (kind == AT_RANDOM and draw.random() < 0.3)):
        if kind == AT_OPERATION:
            prepare = _killing_at_operation(role, int(moment))
            command = workload.command(base, place, f"killed-{number}", prepare=prepare)
            command.start()
        else:
            command = workload.command(base, place, f"killed-{number}")
            share = moment if number == 0 else draw.random()
            _kill_after(command, share * reference.result.seconds, role)
        result = command.result()
        command.wait_for_jobs()
        count(command)
        add_problems(row["problems"], result.problems())
        add_problems(row["problems"], forked(check_whole, place, template_of(base, workload.after)))
    count(run_again(base, workload, place, reference, row["problems"]))
    return row


def _killing_at_operation(role: str, moment: int) -> Callable[[str], Callable[[], None]]:
    def prepare(own: str) -> Callable[[], None]:
        if own == role:
            watch_operations(OperationCounter(moment))
        return no_preparation(own)

    return prepare


def _kill_after(command: Command, seconds: float, role: str) -> None:
    """Start a command and kill some of its processes after some seconds, if they still run."""
    command.start()
    until = command.began + seconds
    while command.code is None and time.monotonic() < until:
        command.serve()
    if command.code is None and not role.startswith("job"):
        kill(command.pid)
    if role == "all" or role.startswith("job"):
        kill(*command.living_jobs)
