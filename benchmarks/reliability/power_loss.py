"""Power losses: data that was not synced is lost, and the workspace must be as good as after a kill.

The model. While a command runs undisturbed, the tree of its files is recorded before and after
every fsync, rename, removal, new folder and COMMIT. At each of these moments the power may fail:

- the content of a file at its last fsync is there; later writes may be there completely, in part, or not at
  all, and then the file is empty or contains zeros;
- the names in a folder at its last fsync are there; each later creation, rename and removal may be done or
  not, a rename completely or not at all;
- a new folder whose parent was not synced may be lost with everything in it.

SQLite's files are trusted to keep SQLite's promise: with synchronous = FULL, which is checked, a
COMMIT that returned is on the disk, and one that did not return is there or not. Torn pages inside
of its files are not modelled; SQLite tests them itself. Nor are disks that lie about a sync.
Workers are not recorded: their jobs are the commands that are.
"""

import hashlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.forking import forked
from benchmarks.reliability.operations import AFTER, COMMIT, watch_operations
from benchmarks.reliability.workloads import (
    STREAMED,
    WORKLOADS,
    WORKSPACE,
    Reference,
    Workload,
    add_problems,
    check_whole,
    fresh_workspace,
    inspect,
    run_again,
    template_of,
)

SYNCHRONOUS_FULL = 2
# How much of the data that was not synced is lost.
EVERYTHING, CONTENT, DRAWN = "everything", "content alone", "a drawn part"
LOSSES = (EVERYTHING, CONTENT, DRAWN)
# Entry of a folder in a listing; a file has its number.
FOLDER = -1
Names = dict[str, int]


@dataclass
class Recorder:
    """Records which files of a tree are certainly on the disk, and writes states after power losses.

    root: of the tree. states: folder for the states. names: by path, the number of a file or FOLDER,
    now and as the folders' last syncs found them; contents: of files by number, in the same way.
    """

    root: Path
    names: Names = field(default_factory=dict)
    synced_names: Names = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    synced_contents: dict[int, bytes] = field(default_factory=dict)
    seen: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def look(self) -> None:
        """Record the current tree."""
        self.names = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            try:
                stat = path.lstat()
                if path.is_dir():
                    self.names[name] = FOLDER
                    continue
                if not path.is_file():
                    continue
                state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                if self.seen.get(stat.st_ino) != state or is_of_sqlite(name):
                    self.contents[stat.st_ino] = path.read_bytes()
                    self.seen[stat.st_ino] = state
                self.names[name] = stat.st_ino
            except FileNotFoundError:
                continue
        # The number of a file without a name is used again.
        living = {*self.names.values(), *self.synced_names.values()}
        for number in [number for number in self.contents if number not in living]:
            del self.contents[number], self.seen[number]
            self.synced_contents.pop(number, None)

    def begin(self) -> None:
        """Treat the current tree as synced."""
        self.look()
        self.synced_names, self.synced_contents = dict(self.names), dict(self.contents)

    def synced(self, path: str) -> None:
        """Record that a file or folder was synced."""
        self.look()
        name = str(Path(path).relative_to(self.root)) if path != str(self.root) else "."
        if name != "." and self.names.get(name, FOLDER) != FOLDER:
            number = self.names[name]
            self.synced_contents[number] = self.contents[number]
        else:
            self._synced_folder(name)

    def _synced_folder(self, name: str) -> None:
        inside = {
            other: number for other, number in self.names.items() if str(Path(other).parent) == name
        }
        gone = [
            other
            for other in self.synced_names
            if str(Path(other).parent) == name and other not in inside
        ]
        for other in gone:
            del self.synced_names[other]
        self.synced_names |= inside

    def renamed(self, source: str, target: str) -> None:
        """Record that a folder was renamed, with the synced files in it.

        Until its parent is synced, it may be lost, which is worse than having its old name.
        """
        old, new = (str(Path(path).relative_to(self.root)) for path in (source, target))
        if self.names.get(old) == FOLDER:
            for name in [name for name in self.synced_names if name.startswith(f"{old}/")]:
                self.synced_names[new + name.removeprefix(old)] = self.synced_names.pop(name)

    def committed(self) -> None:
        """Record that SQLite has synced its files, and the folder if it made a new one."""
        self.look()
        files = {name: number for name, number in self.names.items() if is_of_sqlite(name)}
        for folder in {str(Path(name).parent) for name in files if name not in self.synced_names}:
            self._synced_folder(folder)
        for name in [name for name in self.synced_names if is_of_sqlite(name)]:
            del self.synced_names[name]
        for name, number in files.items():
            self.synced_names[name] = number
            self.synced_contents[number] = self.contents[number]

    def state(self, loss: str, draw: random.Random) -> dict[str, bytes | None]:
        """Return the state after a power loss: contents by path, None for a folder."""
        chosen = dict(self.synced_names)
        if loss == CONTENT:
            chosen = dict(self.names)
        elif loss == DRAWN:
            changed = {
                name
                for name in {*self.names, *self.synced_names}
                if self.names.get(name) != self.synced_names.get(name) and not is_of_sqlite(name)
            }
            # A rename removes one name and adds another in one step.
            steps: dict[int | str, list[str]] = {}
            for name in sorted(changed):
                number = self.names.get(name, self.synced_names.get(name, FOLDER))
                steps.setdefault(name if number == FOLDER else number, []).append(name)
            for names in steps.values():
                if draw.random() < 0.5:
                    for name in names:
                        chosen.pop(name, None)
                        if name in self.names:
                            chosen[name] = self.names[name]
        sqlite_now = loss == DRAWN and draw.random() < 0.5
        for name in {*self.names, *self.synced_names}:
            if is_of_sqlite(name):
                chosen.pop(name, None)
                source = self.names if sqlite_now else self.synced_names
                if name in source:
                    chosen[name] = source[name]
        state: dict[str, bytes | None] = {}
        for name in sorted(chosen):
            parents = [str(parent) for parent in Path(name).parents[:-1]]
            if any(parent not in chosen for parent in parents):
                continue
            number = chosen[name]
            if number == FOLDER:
                state[name] = None
            elif is_of_sqlite(name):
                source = self.contents if sqlite_now else self.synced_contents
                state[name] = source.get(number, b"")
            else:
                state[name] = self._content(number, loss, draw)
        return state

    def _content(self, number: int, loss: str, draw: random.Random) -> bytes:
        synced, now = self.synced_contents.get(number, b""), self.contents.get(number, b"")
        if synced == now or loss != DRAWN:
            return synced
        kind = draw.randrange(4)
        if kind == 0:
            return synced
        if kind == 1:
            return now
        kept = draw.randrange(len(now) + 1)
        return now[:kept] + (bytes(len(now) - kept) if kind == 2 else b"")


def is_of_sqlite(name: str) -> bool:
    """Return whether a file is one of a database's."""
    return Path(name).name.startswith("puma.db") and not name.endswith(".lock")


def write_state(state: dict[str, bytes | None], folder: Path, blobs: Path) -> None:
    """Write a state to a folder; each content is stored once."""
    for name, content in state.items():
        if name.split("/")[0] not in (WORKSPACE, STREAMED):
            continue
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        blob = blobs / hashlib.sha256(content).hexdigest()
        if not blob.exists():
            blob.write_bytes(content)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(blob, path)


def record(base: Path, workload: Workload, place: Path, seed: int) -> list[dict[str, Any]]:
    """Run a workload undisturbed and write the states of power losses at its moments.

    Returns for each state its moment, how many there were, its loss and its folder.
    """
    fresh_workspace(base, workload, place)
    states = place.with_name(f"{place.name}-states")
    (states / "blobs").mkdir(parents=True)

    def prepare(_role: str) -> Callable[[], None]:
        return _record_in_process(place, states, seed)

    command = workload.command(base, place, "recorded", prepare=prepare, limit=600)
    command.start()
    result = command.result()
    if result.code:
        raise RuntimeError(f"{workload.name} ended with {result.code}: {result.error}")
    total = int((states / "moments").read_text())
    return [
        {
            "workload": workload.name,
            "moment": moment,
            "of": total,
            "loss": loss,
            "state": str(states / f"{moment}-{loss}"),
        }
        for moment in range(1, total + 1)
        for loss in LOSSES
    ]


def _record_in_process(place: Path, states: Path, seed: int) -> Callable[[], None]:
    recorder = Recorder(place)
    recorder.begin()
    moments = 0
    busy = False

    def moment() -> None:
        nonlocal moments
        moments += 1
        recorder.look()
        for loss in LOSSES:
            draw = random.Random(f"{seed} {moments} {loss}")
            write_state(recorder.state(loss, draw), states / f"{moments}-{loss}", states / "blobs")

    def watch(name: str, when: str, arguments: tuple[Any, ...]) -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            if name == COMMIT and when != AFTER:
                _check_synchronous(arguments[0])
            if when != AFTER:
                moment()
            elif name == "fsync":
                path = Path(f"/proc/self/fd/{arguments[0]}").resolve()
                if path.is_relative_to(place):
                    recorder.synced(str(path))
            elif name in ("rename", "replace") and Path(arguments[0]).is_relative_to(place):
                recorder.renamed(*map(str, arguments[:2]))
            elif name == COMMIT:
                recorder.committed()
        finally:
            busy = False

    watch_operations(watch)

    def end() -> None:
        nonlocal busy
        busy = True
        # SQLite closes its files by its own protocol.
        recorder.committed()
        moment()
        (states / "moments").write_text(str(moments), encoding="ascii")

    return end


def _check_synchronous(connection: sqlite3.Connection) -> None:
    """Raise RuntimeError if commits of a connection are not synced."""
    ((level,),) = connection.execute("PRAGMA synchronous").fetchall()
    if level < SYNCHRONOUS_FULL:
        raise RuntimeError(f"synchronous is {level}: a commit may be lost.")


def tries(
    base: Path,
    references: dict[str, Reference],
    planned: list[dict[str, Any]],
    place: Path,
    deadline: float,
) -> Iterator[dict[str, Any]]:
    """Open the states after power losses in one folder until the deadline; yield the result of each."""
    workloads = {workload.name: workload for workload in WORKLOADS}
    for planned_row in planned:
        if time.monotonic() > deadline:
            return
        row = dict(planned_row)
        state, name = Path(row.pop("state")), row["workload"]
        at_end = row["moment"] == row["of"]
        yield row | _try(base, workloads[name], references[name], place, state, at_end)
    shutil.rmtree(place, ignore_errors=True)


def _try(
    base: Path, workload: Workload, reference: Reference, place: Path, state: Path, at_end: bool
) -> dict[str, Any]:
    fresh_workspace(base, workload, place)
    for name in (WORKSPACE, STREAMED):
        shutil.rmtree(place / name, ignore_errors=True)
        if (state / name).is_dir():
            shutil.copytree(state / name, place / name)
    problems: dict[str, list[str]] = {}
    add_problems(problems, forked(check_whole, place, template_of(base, workload.after)))
    if at_end:
        # The command has reported success.
        add_problems(problems, forked(inspect_if_there, place, reference.place))
    command = run_again(base, workload, place, reference, problems)
    return {"problems": problems, "kills": 0, "cpu_seconds": round(command.cpu_seconds, 3)}


def inspect_if_there(place: Path, reference: Path) -> dict[str, list[str]]:
    """Inspect a workspace, which may not exist."""
    if not (place / WORKSPACE / "puma.db").is_file():
        return {"lost": ["The workspace of a command that was done is gone."]}
    return inspect(place, reference)
