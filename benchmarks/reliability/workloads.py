"""The commands that are killed, on tiny data and models, and the checks of their results."""

import hashlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny import tiny_backbone_folder

from benchmarks.reliability.forking import Command, CommandResult, forked
from benchmarks.reliability.operations import OperationCounter, watch_operations

USERS, ITEMS, ROWS = 20, 30, 8
TRAINING = ("--epochs", "2", "--batch-size", "64", "--learning-rate", "0.01")
# A checkpoint at every step, so that every kill can be resumed.
TRAINING += ("--checkpoint-seconds", "0")
ADAPTER = ("--hidden", "16")
WORKSPACE, SHARDS, STREAMED = "workspace", "shards", "streamed"
# Parts of names of measured values, which differ from run to run.
MEASURED = ("seconds", "per_second", "time", "created", "started", "finished", "bytes_a_second")


@dataclass(frozen=True)
class Workload:
    """A command, and the steps (names of STEPS) that come before it in its workspace.

    {base} in its arguments is the folder of inputs, {place} the folder that holds the workspace.
    """

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()

    def command(self, base: Path, place: Path, output: str, **options: Any) -> Command:
        """Return the command in the workspace of a place."""
        return Command(filled(self.arguments, base, place), place / "output" / output, **options)


def filled(arguments: Sequence[str], base: Path, place: Path) -> list[str]:
    words = [word.format(base=base, place=place) for word in arguments]
    return ["--workspace", str(place / WORKSPACE), "--json", *words]


_FIT = ("prompts", "fit", "--dataset", "data", *TRAINING)
_MIGRATE = ("migrate", "source", *TRAINING, *ADAPTER, "--share", "0.5")
STEPS: dict[str, tuple[str, ...]] = {
    "data": ("data", "import", "table", "{base}/ratings.csv", "--task", "rating", "--name", "data"),
    "model-a": ("models", "add", "{base}/model-a/model-a"),
    "fit": (*_FIT, "--backbone", "model-a", "--name", "source"),
    "model-b": ("models", "add", "{base}/model-b/model-b"),
    "migrate": (*_MIGRATE, "model-b", "--strategy", "random", "--name", "moved"),
    "evaluate": ("evaluate", "moved", "--name", "eval-moved"),
    "evaluate-source": ("evaluate", "source", "--name", "eval-source"),
    "queue-fit": (*_FIT, "--backbone", "model-b", "--role", "retrained", "--queue"),
    "queue-evaluate": ("evaluate", "source", "--queue"),
    "export": (
        *("prompts", "export", "source", "--out", "{place}/" + SHARDS),
        *("--format", "packed", "--shard-users", "4"),
    ),
}
_SOURCE = ("data", "model-a", "fit")
_MOVED = (*_SOURCE, "model-b", "migrate")
WORKLOADS = (
    Workload("import", STEPS["data"]),
    Workload("fit", STEPS["fit"], ("data", "model-a")),
    Workload("migrate", STEPS["migrate"], (*_SOURCE, "model-b")),
    Workload("evaluate", STEPS["evaluate"], _MOVED),
    Workload(
        "migrate-stream",
        ("migrate-stream", "{place}/" + SHARDS, "{place}/" + STREAMED, "--adapter", "moved"),
        (*_MOVED, "export"),
    ),
    Workload(
        "worker",
        ("worker", "--once", "--device", "cpu"),
        (*_SOURCE, "model-b", "queue-fit", "queue-evaluate"),
    ),
    # The command also makes the runs of the backbone and the selection.
    Workload(
        "implicit", (*_MIGRATE, "{base}/model-b/model-b", "--strategy", "kmeans-variance"), _SOURCE
    ),
    # It also makes the evaluations of baselines.
    Workload(
        "compare",
        ("compare", "eval-moved", "eval-source", "--baselines"),
        (*_MOVED, "evaluate", "evaluate-source"),
    ),
)


def write_inputs(base: Path) -> None:
    """Write a table of ratings and two random models."""
    draw = random.Random(0)
    lines = ["user_id,item_id,outcome,time,text"]
    for user in range(USERS):
        for number, item in enumerate(draw.sample(range(ITEMS), ROWS)):
            time_of = 1_500_000_000 + 86_400 * number + user
            rating = draw.randint(1, 5)
            lines.append(f"{user:03},i{item},{rating},{time_of},Book {item} by Author {item % 4}")
    (base / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, width in (("model-a", 32), ("model-b", 48)):
        tiny_backbone_folder(base / name, "llama", width=width).rename(base / name / name)


def template_of(base: Path, steps: tuple[str, ...]) -> Path:
    """Return the folder with a workspace in which these steps are done; it is made once.

    Raises RuntimeError if a step fails.
    """
    place = base / "templates" / ("-".join(steps) or "empty")
    if place.is_dir():
        return place
    if not steps:
        place.mkdir(parents=True)
        return place
    shutil.copytree(template_of(base, steps[:-1]), place)
    command = Command(filled(STEPS[steps[-1]], base, place), place / "output" / "step", limit=300)
    command.start()
    result = command.result()
    if result.code:
        raise RuntimeError(
            f"{' '.join(command.arguments)} ended with {result.code}: {result.error}"
        )
    shutil.rmtree(place / "output")
    return place


@dataclass
class Reference:
    """The result of an undisturbed command.

    place: its folder. moments: number of moments before and after operations, by role of the
    process.
    """

    place: Path
    result: CommandResult
    moments: dict[str, int]


def fresh_workspace(base: Path, workload: Workload, place: Path) -> Path:
    """Make a folder with a copy of a workload's template, times of files included."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template_of(base, workload.after), place)
    return place


def reference_of(base: Path, workload: Workload) -> Reference:
    """Run a workload undisturbed, and count the operations of its processes.

    Raises RuntimeError if it fails or has other results than an earlier reference.
    """
    place = base / "references" / workload.name
    earlier = place.rename(place.with_name(f"{place.name}-earlier")) if place.exists() else place
    fresh_workspace(base, workload, place)
    counts = place / "counts"
    counts.mkdir()

    def count(role: str) -> Callable[[], None]:
        counter = OperationCounter()
        watch_operations(counter)

        def write() -> None:
            counter.write(counts / role)
            (counts / f"{role}.modules").write_text("\n".join(sys.modules), encoding="utf-8")

        return write

    command = workload.command(base, place, "reference", prepare=count, limit=300)
    command.start()
    result = command.result()
    command.wait_for_jobs()
    if result.code:
        raise RuntimeError(f"{workload.name} ended with {result.code}: {result.error}")
    moments = {
        path.name: int(path.read_text()) for path in sorted(counts.iterdir()) if not path.suffix
    }
    problems = forked(inspect, place, earlier)
    if any(problems.values()):
        raise RuntimeError(f"{workload.name} is not clean undisturbed: {problems}")
    return Reference(place, result, moments)


KINDS_OF_PROBLEMS = ("lost", "half_written", "other_values")


def check_whole(place: Path, template: Path) -> dict[str, list[str]]:
    """Check a workspace after a kill: every finished run must be complete, and none may be lost."""
    from puma_engine.store import Workspace

    problems: dict[str, list[str]] = {kind: [] for kind in KINDS_OF_PROBLEMS}
    root = place / WORKSPACE
    if not (root / "puma.db").is_file():
        if (template / WORKSPACE / "puma.db").is_file():
            problems["lost"].append("The database is gone.")
        return problems
    ws = Workspace.open(root, create=True)
    problems["half_written"] += ws.verify()
    if (template / WORKSPACE / "puma.db").is_file():
        before = Workspace.open(template / WORKSPACE)
        finished = {run.id for run in ws.runs(status="finished")}
        problems["lost"] += [
            f"The run {run.name} was finished, and is not any more."
            for run in before.runs(status="finished")
            if run.id not in finished
        ]
    return problems


def add_problems(problems: dict[str, list[str]], more: dict[str, list[str]]) -> None:
    """Add problems by kind to those of a try; empty kinds are left out."""
    for kind, sentences in more.items():
        if sentences:
            problems.setdefault(kind, []).extend(sentences)


def run_again(
    base: Path,
    workload: Workload,
    place: Path,
    reference: Reference,
    problems: dict[str, list[str]],
) -> Command:
    """Run a command again after a kill or power loss, inspect its workspace, and add the problems."""
    command = workload.command(base, place, "again")
    command.start()
    result = command.result()
    command.wait_for_jobs()
    add_problems(problems, result.problems())
    add_problems(problems, forked(inspect, place, reference.place))
    return command


def inspect(place: Path, reference: Path) -> dict[str, list[str]]:
    """Compare the workspace of a completed command with that of the reference.

    Then tidy it; no temporary file may be left, and everything must still be complete.
    """
    from puma_engine.jobs.tidying import LEFTOVER_SECONDS, tidy
    from puma_engine.pipeline.doctor import check_workspace
    from puma_engine.store import Workspace

    problems: dict[str, list[str]] = {kind: [] for kind in KINDS_OF_PROBLEMS}
    ws, right = Workspace.open(place / WORKSPACE), Workspace.open(reference / WORKSPACE)

    def check(when: str) -> None:
        rows = check_workspace(ws, scrub=True)
        problems["half_written"] += [
            f"doctor {when}: {row['detail']}" for row in rows if row["status"] == "fail"
        ]

    check("before gc")
    _compare_runs(ws, right, problems)
    _compare_files(place / STREAMED, reference / STREAMED, problems)
    old = time.time() - 2 * LEFTOVER_SECONDS
    for left in ws.root.rglob(".*.tmp"):
        os.utime(left, (old, old))
    tidy(ws)
    problems["half_written"] += [
        f"{left.relative_to(place)} is left after gc"
        for left in place.rglob("*")
        if left.name.endswith(".tmp")
    ]
    for run in ws.runs():
        known = {row["file"] for row in ws.artifact_rows(run.id)} | {"run.json"}
        problems["half_written"] += [
            f"{path.name} of the {run.kind} run belongs to nothing"
            for path in ws.folder(run.id).glob("*")
            if path.name not in known
        ]
    check("after gc")
    return problems


def _compare_runs(ws: Any, right: Any, problems: dict[str, list[str]]) -> None:
    runs = {run.id: run for run in ws.runs()}
    for expected in right.runs():
        run = runs.pop(expected.id, None)
        label = f"the {expected.kind} run {expected.name}"
        if run is None or run.status != expected.status:
            problems["lost"].append(f"{label} is {run.status if run else 'missing'}")
            continue
        for part in ("name", "config", "inputs", "seed", "cost", "summary"):
            if without_times(getattr(run, part)) != without_times(getattr(expected, part)):
                problems["other_values"].append(f"{part} of {label}")
        _compare_artifacts(ws, right, run.id, label, problems)
        if _rows_without_times(ws.metric_rows(run.id)) != _rows_without_times(
            right.metric_rows(run.id)
        ):
            problems["other_values"].append(f"metrics of {label}")
    problems["other_values"] += [f"there is the {run.kind} run {run.name}" for run in runs.values()]
    if jobs := [row["status"] for row in ws.query("SELECT status FROM jobs")]:
        expected_jobs = [row["status"] for row in right.query("SELECT status FROM jobs")]
        if jobs != expected_jobs:
            problems["lost"].append(f"jobs are {jobs}, not {expected_jobs}")


def _compare_artifacts(
    ws: Any, right: Any, run_id: str, label: str, problems: dict[str, list[str]]
) -> None:
    files = {row["name"]: row for row in ws.artifact_rows(run_id)}
    expected = {row["name"]: row for row in right.artifact_rows(run_id)}
    if files.keys() != expected.keys():
        problems["lost"].append(f"{label} has {sorted(files)}, not {sorted(expected)}")
        return
    for name, row in files.items():
        if row["sha256"] == expected[name]["sha256"]:
            continue
        if row["format"] == "parquet":
            frames = [
                frame.drop(columns=[c for c in frame.columns if any(m in c for m in MEASURED)])
                for frame in (ws.get_table(run_id, name), right.get_table(run_id, name))
            ]
            if frames[0].equals(frames[1]):
                continue
        problems["other_values"].append(f"{name} of {label}")


def _compare_files(place: Path, reference: Path, problems: dict[str, list[str]]) -> None:
    files, expected = _hashes(place), _hashes(reference)
    problems["lost"] += [f"{name} is missing" for name in sorted(expected.keys() - files.keys())]
    problems["half_written"] += [
        f"{name} is left" for name in sorted(files.keys() - expected.keys())
    ]
    problems["other_values"] += [
        f"{name} differs"
        for name in files.keys() & expected.keys()
        if files[name] != expected[name]
    ]


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def without_times(value: Any) -> Any:
    """Return a value without measured values in it."""
    if isinstance(value, dict):
        return {
            name: without_times(item)
            for name, item in value.items()
            if not any(part in name for part in MEASURED)
        }
    if isinstance(value, list | tuple):
        return [without_times(item) for item in value]
    return value


def _rows_without_times(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if not any(part in row["metric"] for part in MEASURED)]
