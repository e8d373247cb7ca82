"""Runs: begun, finished or failed, found again, and followed back to where they came from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from puma_engine.config import stable_hash
from puma_engine.errors import NotFoundError, StoreError
from puma_engine.store import locks
from puma_engine.store.base import Base
from puma_engine.store.records import (
    KINDS,
    STATUSES,
    Run,
    checked_member,
    checked_name,
    checked_run_id,
    now,
    plain,
    run_of,
    to_json,
    versions,
)
from puma_engine.store.schema import DETAILS

_SELECT = (
    "SELECT runs.*, (SELECT json_group_object(role, input_id) FROM run_inputs"
    " WHERE run_id = runs.id) AS inputs FROM runs"
)
# What a new attempt at a run forgets.
_OUTCOMES = (
    "run_inputs",
    "artifacts",
    "metrics",
    "user_metrics",
    *sorted(set(DETAILS.values())),
)
SHORTEST_PREFIX = 4


class Runs(Base):
    """The part of a workspace that keeps runs."""

    def run_key(
        self,
        kind: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int | None = None,
    ) -> str:
        """Return the id that a question has: 16 hexadecimal digits of its content."""
        question = {
            "kind": kind,
            "config": plain(config, "settings"),
            "inputs": dict(inputs),
        }
        return stable_hash(question if seed is None else question | {"seed": int(seed)})

    def begin(
        self,
        kind: str,
        *,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int | None = None,
    ) -> Run:
        """Return the finished run of this question, or start it (again) under the same id.

        What an earlier attempt left is forgotten, except its checkpoints. Raises StoreError
        while another process works on the same run, or for an input that is not finished.
        """
        checked_member(kind, KINDS, "kind of run")
        checked_name(name)
        run_id = self.run_key(kind, config, inputs, seed)
        if self._is_finished(run_id):
            return self._get(run_id)
        if not locks.acquire(self.lock(run_id)):
            raise StoreError(
                f"Another process works on the {kind} run {name!r} ({run_id}); wait for it to end."
            )
        try:
            with self.transaction():
                if not self._is_finished(run_id):
                    self._start(run_id, kind, name, config, inputs, seed)
        except BaseException:
            locks.release(self.lock(run_id))
            raise
        if self._is_finished(run_id):
            locks.release(self.lock(run_id))
        else:
            shutil.rmtree(self.folder(run_id), ignore_errors=True)
        return self._get(run_id)

    def _is_finished(self, run_id: str) -> bool:
        return bool(self.query("SELECT 1 FROM runs WHERE id = ? AND status = 'finished'", [run_id]))

    def _start(
        self,
        run_id: str,
        kind: str,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int | None,
    ) -> None:
        for role, input_id in inputs.items():
            if not self._is_finished(checked_run_id(input_id)):
                raise StoreError(
                    f"The input {role!r} of a {kind} run is {input_id}, which is not finished here; "
                    "finish it first."
                )
        for table in _OUTCOMES:
            self.db.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
        time = now()
        self.db.execute(
            "INSERT INTO runs (id, kind, name, status, config, seed, versions, created, started)"
            " VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " name = excluded.name, status = 'running', versions = excluded.versions,"
            " started = excluded.started, finished = NULL, device = NULL, seconds = NULL,"
            " cost = NULL, summary = NULL, error = NULL",
            [run_id, kind, name, to_json(config, "settings"), seed]
            + [to_json(versions(), "versions"), time, time],
        )
        for role, input_id in inputs.items():
            self.db.execute("INSERT INTO run_inputs VALUES (?, ?, ?)", [run_id, role, input_id])

    def finish(
        self,
        run_id: str,
        *,
        seconds: float,
        device: str,
        cost: Mapping[str, Any] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> Run:
        """Mark a run as finished. From then on nothing of it changes but name and note."""
        with self.transaction():
            row = self._running(run_id)
            values = [now(), float(seconds), device, to_json(cost or {}, "cost")]
            self.db.execute(
                "UPDATE runs SET status = 'finished', finished = ?, seconds = ?, device = ?,"
                " cost = ?, summary = ?, error = NULL WHERE id = ?",
                [*values, to_json(summary or {}, "summary"), run_id],
            )
            self._fill_details(self._get(run_id), row["kind"])
        locks.release(self.lock(run_id))
        return self._get(run_id)

    def fail(self, run_id: str, error: str, *, interrupted: bool = False) -> Run:
        """Mark a run as failed (or interrupted) with its reason; beginning it again resumes."""
        status = "interrupted" if interrupted else "failed"
        with self.transaction():
            self._running(run_id)
            self.db.execute(
                "UPDATE runs SET status = ?, finished = ?, error = ? WHERE id = ?",
                [status, now(), str(error), run_id],
            )
        locks.release(self.lock(run_id))
        return self._get(run_id)

    def _running(self, run_id: str) -> dict[str, Any]:
        found = self.query("SELECT * FROM runs WHERE id = ?", [checked_run_id(run_id)])
        if not found:
            raise NotFoundError(f"There is no run {run_id} in {self.root}.")
        if found[0]["status"] != "running":
            status = found[0]["status"]
            advice = "delete it to redo it" if status == "finished" else "begin it again"
            raise StoreError(f"The run {run_id} is {status} and takes no more results; {advice}.")
        return found[0]

    def describe(self, run_id: str, table: str, **columns: Any) -> None:
        """Set columns of a run's row in datasets, backbones, prompt_tables or selections."""
        checked_member(table, tuple(sorted(set(DETAILS.values()))), "table of details")
        known = self.db.table(table).columns_dict
        unknown = sorted(set(columns) - set(known) | {"run_id"} & set(columns))
        if unknown:
            raise StoreError(f"The table {table} has no column {', '.join(unknown)} to set.")
        with self.transaction() as db:
            self._running(run_id)
            db.table(table).upsert(
                {"run_id": run_id} | plain(columns, "columns"),
                pk="run_id",  # type: ignore[arg-type]
            )

    def _fill_details(self, run: Run, kind: str) -> None:
        """Copy the facts that its kind has columns for, without touching described ones."""
        table = DETAILS.get(kind)
        if table is None:
            return
        facts = {"run_id": run.id} | run.config | run.cost | run.summary
        given = [name for name in self.db.table(table).columns_dict if _is_cell(facts.get(name))]
        kept = [f"{name} = coalesce({table}.{name}, excluded.{name})" for name in given]
        self.db.execute(
            f"INSERT INTO {table} ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})"
            f" ON CONFLICT (run_id) DO UPDATE SET {', '.join(kept)}",
            [facts[name] for name in given],
        )

    def run(self, reference: str) -> Run:
        """Return a run by id, by name, or by the beginning of its id.

        Raises NotFoundError, or StoreError when several runs answer to it.
        """
        if not isinstance(reference, str) or not reference:
            raise NotFoundError("A run needs an id or a name; none came.")
        for condition, value in (
            ("id = ?", reference),
            ("name = ?", reference),
            ("substr(id, 1, ?) = ?", reference),
        ):
            values = [len(value), value] if "substr" in condition else [value]
            if "substr" in condition and len(value) < SHORTEST_PREFIX:
                continue
            found = self.query(f"{_SELECT} WHERE {condition}", values)
            if len(found) > 1:
                ids = ", ".join(row["id"] for row in found)
                raise StoreError(f"{len(found)} runs answer to {reference!r} ({ids}); give an id.")
            if found:
                return run_of(found[0], self.status(found[0]))
        raise NotFoundError(
            f"There is no run {reference!r} in {self.root}; `puma runs list` shows what there is."
        )

    def _get(self, run_id: str) -> Run:
        found = self.query(f"{_SELECT} WHERE id = ?", [checked_run_id(run_id)])
        if not found:
            raise NotFoundError(f"There is no run {run_id} in {self.root}.")
        return run_of(found[0], self.status(found[0]))

    def runs(
        self,
        kind: str | None = None,
        status: str | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        """Return runs, the newest first."""
        conditions, values = ["1"], []
        if kind is not None:
            conditions.append("kind = ?")
            values.append(checked_member(kind, KINDS, "kind of run"))
        # A row may still say running when its process is gone.
        if status is not None:
            stored = "running" if status == "interrupted" else status
            conditions.append("status IN (?, ?)")
            values += [checked_member(status, STATUSES, "status of runs"), stored]
        order = "ORDER BY created DESC, rowid DESC"
        found = self.query(f"{_SELECT} WHERE {' AND '.join(conditions)} {order}", values)
        listed = (run_of(row, self.status(row)) for row in found)
        return [run for run in listed if status in (None, run.status)][:limit]

    def lineage(self, run_id: str) -> list[Run]:
        """Return a run and all it came from: every run stands before those that it used."""
        walk = (
            "WITH RECURSIVE up(id, depth) AS (SELECT ?, 0 UNION SELECT input_id, depth + 1"
            " FROM run_inputs JOIN up ON run_id = up.id) SELECT id, max(depth) AS depth FROM up"
            " GROUP BY id ORDER BY 2, 1"
        )
        return [self._get(row["id"]) for row in self.query(walk, [self._get(run_id).id])]

    def dependents(self, run_id: str) -> list[Run]:
        """Return the runs that used a run directly."""
        sql = f"{_SELECT} WHERE id IN (SELECT run_id FROM run_inputs WHERE input_id = ?)"
        found = self.query(f"{sql} ORDER BY created", [checked_run_id(run_id)])
        return [run_of(row, self.status(row)) for row in found]

    def rename(self, run_id: str, name: str) -> Run:
        """Give a run another name."""
        return self._set(run_id, "name", checked_name(name))

    def note(self, run_id: str, text: str | None) -> Run:
        """Keep a remark with a run, or remove it."""
        return self._set(run_id, "note", text)

    def _set(self, run_id: str, column: str, value: str | None) -> Run:
        self._get(run_id)
        with self.transaction() as db:
            db.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", [value, run_id])
        return self._get(run_id)

    def delete(self, run_id: str) -> None:
        """Delete a run with its files; refused while it is worked on or others depend on it."""
        with self.transaction() as db:
            run = self._get(run_id)
            users = self.dependents(run.id)
            if users:
                names = ", ".join(f"{other.name} ({other.id})" for other in users[:5])
                raise StoreError(
                    f"The run {run.name!r} is used by {len(users)} runs: {names}; delete them first."
                )
            if run.status == "running":
                raise StoreError(f"The run {run.name!r} is being worked on; cancel it first.")
            db.execute("DELETE FROM runs WHERE id = ?", [run.id])
        shutil.rmtree(self.folder(run.id), ignore_errors=True)
        shutil.rmtree(self.root / "work" / run.id, ignore_errors=True)
        self.lock(run.id).unlink(missing_ok=True)


def _is_cell(value: Any) -> bool:
    return isinstance(value, str | int | float)
