"""Read damaged inputs: each must be refused in one sentence, or have the values of an independent reader."""

import json
import os
import random
import resource
import select
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability import documents, interactions
from benchmarks.reliability.forking import HANG_SECONDS, forked

READERS = {reader.name: reader for reader in (*interactions.READERS, *documents.READERS)}
MEMORY_BYTES = 4 << 30
MAX_SENTENCE = 1500
BATCH = 25
# Probability of damaging the first file, which has the rows, if there are several.
FIRST_FILE = 0.6


def write_originals(folder: Path) -> None:
    """Write the undamaged files of every reader; each must be read as its reference says."""
    for number, reader in enumerate(READERS.values()):
        place = folder / str(number)
        place.mkdir(parents=True)
        reader.write(place)
        value = reader.read(place)
        if problems := reader.judge(place, place, value, value):
            raise RuntimeError(f"{reader.name}: the undamaged files are read otherwise: {problems}")


def tries(
    originals: Path, cases: list[tuple[str, int]], place: Path, deadline: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Try damaged files, given as reader and number, until the deadline."""
    numbers = {name: str(number) for number, name in enumerate(READERS)}
    rest = list(cases)
    while rest and time.monotonic() < deadline:
        name = rest[0][0]
        batch = [number for other, number in rest[:BATCH] if other == name]
        done = 0
        for row in _in_child(originals / numbers[name], place, name, batch, seed):
            done += 1
            yield row
        rest = rest[max(1, done) :]
    shutil.rmtree(place, ignore_errors=True)


def _in_child(
    original: Path, place: Path, name: str, batch: list[int], seed: int
) -> Iterator[dict[str, Any]]:
    """Try cases in one forked process; yield until one ends it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        with os.fdopen(write, "w", buffering=1) as pipe:
            try:
                for row in _cases(original, place, name, batch, seed):
                    pipe.write(json.dumps(row) + "\n")
            except BaseException:  # the parent counts it
                pipe.write(json.dumps({"broken": traceback.format_exc()}) + "\n")
        os._exit(0)
    os.close(write)
    begun: dict[str, Any] = {}
    timed_out = False
    with os.fdopen(read) as pipe:
        while True:
            # A sleeping process uses no processor time.
            if not select.select([pipe], [], [], 20 * HANG_SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
                timed_out = True
            line = pipe.readline()
            if not line:
                break
            row = json.loads(line)
            if "begun" in row:
                begun = row
            else:
                begun = {}
                yield row
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if begun:
        kind = "hang" if timed_out or code == -signal.SIGXCPU else "traceback"
        yield begun | {"outcome": kind, "detail": f"The process ended with {code}."}


def _cases(
    original: Path, place: Path, name: str, batch: list[int], seed: int
) -> Iterator[dict[str, Any]]:
    warnings.simplefilter("ignore")
    reader = READERS[name]
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(original, place)
    before = reader.read(original)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    for number in batch:
        draw = random.Random(f"{seed} {name} {number}")
        first = draw.random() < FIRST_FILE
        chosen = reader.files[0] if first else draw.choice(reader.files)
        whole = (original / chosen).read_bytes()
        damaged, kinds = whole, []
        while damaged == whole:
            kind = draw.choice(reader.how)
            kinds.append(kind.__name__)
            damaged = kind(damaged, draw)
        (place / chosen).write_bytes(damaged)
        row: dict[str, Any] = {"reader": name, "number": number, "file": chosen, "damage": kinds}
        yield row | {"begun": True}
        spent = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(spent.ru_utime + spent.ru_stime) + HANG_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        yield row | _outcome(reader, original, place, before)
        (place / chosen).write_bytes(whole)


def _outcome(reader: Any, original: Path, place: Path, before: Any) -> dict[str, Any]:
    from puma_engine.errors import PumaError

    try:
        after = reader.read(place)
    except PumaError as error:
        sentence = " ".join(str(error).split())
        if not sentence or len(sentence) > MAX_SENTENCE or "Traceback" in sentence:
            return {"outcome": "no sentence", "detail": sentence[:500]}
        return {"outcome": "refused"}
    except Exception:
        return {"outcome": "traceback", "detail": traceback.format_exc()[-1500:]}
    if problems := reader.judge(original, place, before, after):
        return {"outcome": "other values", "detail": problems}
    return {"outcome": "accepted"}


def reproduce(name: str, number: int, seed: int, folder: Path) -> dict[str, Any]:
    """Write one damaged input to a folder and return the outcome of reading it."""
    original = folder / "original"
    original.mkdir(parents=True)
    READERS[name].write(original)

    def outcome() -> Any:
        return list(_cases(original, folder / "damaged", name, [number], seed))[-1]

    (row,) = [forked(outcome)]
    return dict(row)
