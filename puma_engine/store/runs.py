"""Runs: begin, finish or fail them, look them up, and follow their lineage."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlite_utils import Database

from puma_engine.config import stable_hash
from puma_engine.errors import NotFoundError, StoreError
from puma_engine.files import parse_json, write_json
from puma_engine.store import locks
from puma_engine.store.records import (
    KINDS,
    STATUSES,
    Run,
    checked_member,
    checked_name,
    checked_run_id,
    now,
    plain,
    to_json,
    versions,
)
from puma_engine.store.run_records import RunRecords, read_record, row_checksum
from puma_engine.store.schema import DETAILS

_SELECT = (
    "SELECT runs.*, (SELECT json_group_object(role, input_id) FROM run_inputs"
    " WHERE run_id = runs.id) AS inputs FROM runs"
)
# Tables from which the rows of a run are deleted when it starts again.
_RESULT_TABLES = ("run_inputs", "artifacts", "metrics", "user_metrics", *set(DETAILS.values()))
MIN_PREFIX = 4


class Runs(RunRecords):
    """The part of a workspace that stores runs."""

    def run_key(
        self,
        kind: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int | None = None,
    ) -> str:
        """Return the id of a run: 16 hexadecimal digits of a hash of kind, settings, inputs and seed."""
        content = {"kind": kind, "config": plain(config, "settings"), "inputs": dict(inputs)}
        return stable_hash(content if seed is None else content | {"seed": int(seed)})

    def begin(
        self,
        kind: str,
        *,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int | None = None,
    ) -> Run:
        """Return the finished run with these settings and inputs, or start it.

        A run that starts again deletes the results of an earlier attempt, except its checkpoints.
        Raises StoreError while another process works on the same run, or for an input that is not
        finished.
        """
        checked_member(kind, KINDS, "kind of run")
        checked_name(name)
        run_id = self.run_key(kind, config, inputs, seed)
        if self._is_finished(run_id):
            return self._get_undamaged(run_id)
        self.check_writable()
        if not locks.acquire(self.lock(run_id)):
            raise StoreError(
                f"Another process works on the {kind} run {name!r} ({run_id}); wait for it to end."
            )
        try:
            with self.transaction() as db:
                # Another process may have finished it before this one had the lock.
                if not self._is_finished(run_id):
                    self._refuse_unfinished_inputs(kind, inputs)
                    self._store_started(db, run_id, kind, name, config, inputs, seed)
        except BaseException:
            locks.release(self.lock(run_id))
            raise
        if self._is_finished(run_id):
            locks.release(self.lock(run_id))
        else:
            shutil.rmtree(self.folder(run_id), ignore_errors=True)
        return self._get(run_id)

    def _refuse_unfinished_inputs(self, kind: str, inputs: Mapping[str, str]) -> None:
        for role, input_id in inputs.items():
            if not self._is_finished(checked_run_id(input_id)):
                raise StoreError(
                    f"The input {role!r} of a {kind} run is {input_id}, which is not "
                    "finished here; finish it first."
                )

    def _store_started(
        self,
        db: Database,
        run_id: str,
        kind: str,
        name: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int | None,
    ) -> None:
        """Store the row of a run that starts, without the results of an earlier attempt."""
        for table in _RESULT_TABLES:
            db.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
        time = now()
        db.execute(
            "INSERT INTO runs (id, kind, name, status, config, seed, versions, created, started)"
            " VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET"
            " name = excluded.name, status = 'running', versions = excluded.versions,"
            " config = excluded.config, started = excluded.started, finished = NULL,"
            " device = NULL, seconds = NULL, cost = NULL, summary = NULL, error = NULL,"
            " checksum = NULL, results_checksum = NULL",
            [run_id, kind, name, to_json(config, "settings"), seed]
            + [to_json(versions(), "versions"), time, time],
        )
        db.conn.executemany(
            "INSERT INTO run_inputs VALUES (?, ?, ?)",
            [(run_id, role, input_id) for role, input_id in inputs.items()],
        )

    def _get_undamaged(self, run_id: str) -> Run:
        """Return a finished run. Raises StoreError if its row is damaged."""
        run = self._get(run_id)
        if run.status == "damaged":
            raise StoreError(str(run.error))
        return run

    def _is_finished(self, run_id: str) -> bool:
        return bool(self.query("SELECT 1 FROM runs WHERE id = ? AND status = 'finished'", [run_id]))

    def finish(
        self,
        run_id: str,
        *,
        seconds: float,
        device: str,
        cost: Mapping[str, Any] | None = None,
        summary: Mapping[str, Any] | None = None,
    ) -> Run:
        """Mark a run as finished; afterwards only its name and note may change. Raises StoreError.

        seconds: the measured work; cost and summary: JSON values, as in `Run`.
        """
        with self.transaction():
            self._check_running(run_id)
            values = [now(), float(seconds), device, to_json(cost or {}, "cost")]
            self.db.execute(
                "UPDATE runs SET status = 'finished', finished = ?, seconds = ?, device = ?,"
                " cost = ?, summary = ?, error = NULL WHERE id = ?",
                [*values, to_json(summary or {}, "summary"), run_id],
            )
            self.fill_details(self._get(run_id))
            self.seal(run_id)
        locks.release(self.lock(run_id))
        return self._get(run_id)

    def fill_details(self, run: Run) -> None:
        """Fill the typed row of a finished run from its config, cost and summary; part of a transaction."""
        table = DETAILS.get(run.kind)
        if table is None:
            return
        recorded = {"run_id": run.id} | run.config | run.cost | run.summary
        columns = self.db.table(table).columns_dict
        names = [name for name in columns if isinstance(recorded.get(name), str | int | float)]
        self.db.execute(
            f"INSERT OR REPLACE INTO {table} ({', '.join(names)})"
            f" VALUES (?{', ?' * (len(names) - 1)})",
            [recorded[name] for name in names],
        )

    def fail(self, run_id: str, error: str, *, interrupted: bool = False) -> Run:
        """Mark a run as failed (or interrupted) with the reason; starting it again resumes it."""
        status = "interrupted" if interrupted else "failed"
        with self.transaction():
            self._check_running(run_id)
            self.db.execute(
                "UPDATE runs SET status = ?, finished = ?, error = ? WHERE id = ?",
                [status, now(), str(error), run_id],
            )
        locks.release(self.lock(run_id))
        return self._get(run_id)

    def _check_running(self, run_id: str) -> None:
        """Raise StoreError unless a run is running, so that results can be stored."""
        rows = self.query("SELECT status FROM runs WHERE id = ?", [checked_run_id(run_id)])
        if not rows:
            raise NotFoundError(f"There is no run {run_id} in {self.root}.")
        status = rows[0]["status"]
        if status != "running":
            advice = "delete it to redo it" if status == "finished" else "begin it again"
            raise StoreError(f"The run {run_id} is {status} and takes no more results; {advice}.")

    def run(self, reference: str, *, alone: bool = False) -> Run:
        """Return a run by id, name or prefix of the id. Raises NotFoundError, StoreError.

        Of several matching runs, `preferred_runs` chooses. A reference that is the name of one
        finished run and the beginning of another one's id is refused. alone: refuse every reference
        that several runs match.
        """
        runs = self.matches(reference)
        if not alone:
            runs = preferred_runs(runs, reference)
        if len(runs) > 1:
            ids = ", ".join(f"{run.id} {run.status}" for run in runs)
            raise StoreError(f"{len(runs)} runs match {reference!r} ({ids}); give an id.")
        if not runs:
            raise NotFoundError(
                f"There is no run {reference!r} in {self.root}; `puma runs list` shows what there is."
            )
        return runs[0]

    def matches(self, reference: str) -> list[Run]:
        """Return the runs that match a reference: the run with that id, otherwise by name or prefix of the id.

        Raises NotFoundError if the reference is empty or no text.
        """
        if not isinstance(reference, str) or not reference:
            raise NotFoundError("A run needs an id or a name; none is given.")
        rows = self.query(f"{_SELECT} WHERE id = ?", [reference])
        if not rows:
            prefix = reference if len(reference) >= MIN_PREFIX else None
            rows = self.query(
                f"{_SELECT} WHERE name = ? OR substr(id, 1, ?) = ? ORDER BY created",
                [reference, len(reference), prefix],
            )
        return [self._run_of(row) for row in rows]

    def _get(self, run_id: str) -> Run:
        rows = self.query(f"{_SELECT} WHERE id = ?", [checked_run_id(run_id)])
        if not rows:
            raise NotFoundError(f"There is no run {run_id} in {self.root}.")
        return self._run_of(rows[0])

    def _run_of(self, row: Mapping[str, Any]) -> Run:
        """Return the run of a row; a running one whose process has ended is interrupted.

        A row that has changed or is no valid JSON gives a damaged run with the values that can be
        read.
        """
        values = {name: row[name] for name in Run.__dataclass_fields__}
        damaged = False
        for name in ("config", "inputs", "versions", "cost", "summary"):
            try:
                values[name] = parse_json(values[name] or "{}")
            except (ValueError, TypeError):
                values[name] = None
            if not isinstance(values[name], dict):
                values[name], damaged = {}, True
        values["inputs"] = dict(sorted(values["inputs"].items()))
        checksum = row.get("checksum")
        if checksum is not None:
            damaged |= checksum != row_checksum(row, values["inputs"])
        if damaged:
            values["status"] = "damaged"
            values["error"] = (
                f"The row of the run {row['id']} in the database is damaged; `puma doctor --rebuild` "
                "restores it from the record beside its files, or delete the run and redo it."
            )
        elif row["status"] == "running" and not locks.is_held(self.lock(row["id"])):
            values["status"] = "interrupted"
        return Run(**values)

    def runs(
        self, kind: str | None = None, status: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """Return runs, the newest first. Raises StoreError for an unknown kind or status."""
        conditions, values = ["1"], []
        if kind is not None:
            conditions.append("kind = ?")
            values.append(checked_member(kind, KINDS, "kind of run"))
        # The status of a row may be running though its process has ended, or finished though it is damaged.
        if status is not None and checked_member(status, STATUSES, "status of runs") != "damaged":
            stored = "running" if status == "interrupted" else status
            conditions.append("status IN (?, ?)")
            values += [status, stored]
        order = "ORDER BY created DESC, rowid DESC"
        rows = self.query(f"{_SELECT} WHERE {' AND '.join(conditions)} {order}", values)
        runs = map(self._run_of, rows)
        return [run for run in runs if status in (None, run.status)][:limit]

    def lineage(self, run_id: str) -> list[Run]:
        """Return a run and all its ancestors; every run stands before its inputs."""
        walk = (
            "WITH RECURSIVE up(id, depth) AS (SELECT ?, 0 UNION SELECT input_id, depth + 1"
            " FROM run_inputs JOIN up ON run_id = up.id) SELECT id, max(depth) AS depth FROM up"
            " GROUP BY id ORDER BY 2, 1"
        )
        return [self._get(row["id"]) for row in self.query(walk, [self._get(run_id).id])]

    def dependents(self, run_id: str) -> list[Run]:
        """Return the runs that used a run directly."""
        sql = f"{_SELECT} WHERE id IN (SELECT run_id FROM run_inputs WHERE input_id = ?)"
        rows = self.query(f"{sql} ORDER BY created", [checked_run_id(run_id)])
        return [self._run_of(row) for row in rows]

    def rewrite_summary(self, run_id: str, summary: Mapping[str, Any]) -> None:
        """Replace the summary of a finished run, for the erasure of a user."""
        with self.transaction() as db:
            self._get_undamaged(run_id)
            db.execute(
                "UPDATE runs SET summary = ? WHERE id = ?", [to_json(summary, "summary"), run_id]
            )
            self.seal(run_id)
            self.fill_details(self._get(run_id))

    def rename(self, run_id: str, name: str) -> Run:
        """Give a run another name."""
        return self._set(run_id, "name", checked_name(name))

    def note(self, run_id: str, text: str | None) -> Run:
        """Store a remark with a run; None removes it."""
        return self._set(run_id, "note", text)

    def _set(self, run_id: str, column: str, value: str | None) -> Run:
        self._get(run_id)
        with self.transaction() as db:
            db.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", [value, run_id])
        if (path := self.record_path(run_id)).is_file():
            with suppress(StoreError):  # `verify` reports a damaged record
                record = read_record(path)
                record["run"][column] = value
                write_json(path, record)
        return self._get(run_id)

    def descendants(self, run_id: str) -> list[Run]:
        """Return the runs that were made from a run, directly or not; every run after its inputs."""
        walk = (
            "WITH RECURSIVE down(id, depth) AS (SELECT ?, 0 UNION SELECT run_id, depth + 1"
            " FROM run_inputs JOIN down ON input_id = down.id) SELECT id, max(depth) AS depth"
            " FROM down GROUP BY id ORDER BY 2, 1"
        )
        first = self._get(run_id).id
        return [self._get(row["id"]) for row in self.query(walk, [first]) if row["id"] != first]

    def delete_all(self, run_id: str) -> list[Run]:
        """Delete a run and everything that was made from it; return what was deleted.

        Raises StoreError, before anything is deleted, if a process works on one of them.
        """
        runs = [self._get(run_id), *self.descendants(run_id)]
        for run in runs:
            _refuse_published(run)
            if run.status == "running":
                raise StoreError(f"The run {run.name!r} is being computed; cancel it first.")
        for run in reversed(runs):
            self.delete(run.id)
        return runs

    def delete(self, run_id: str, *, published: bool = False) -> None:
        """Delete a run with its files. Raises StoreError if it is running or an input of others.

        A run of a published comparison is refused, too, unless published.
        """
        with self.transaction() as db:
            run = self._get(run_id)
            if not published:
                _refuse_published(run)
            users = self.dependents(run.id)
            if users:
                names = ", ".join(f"{other.name} ({other.id})" for other in users[:5])
                raise StoreError(
                    f"The run {run.name!r} is used by {len(users)} runs: {names}; delete them first."
                )
            if run.status == "running":
                raise StoreError(f"The run {run.name!r} is being computed; cancel it first.")
            db.execute("DELETE FROM runs WHERE id = ?", [run.id])
        shutil.rmtree(self.folder(run.id), ignore_errors=True)
        shutil.rmtree(self.root / "work" / run.id, ignore_errors=True)
        self.lock(run.id).unlink(missing_ok=True)


def preferred_runs(runs: Sequence[Run], reference: str) -> list[Run]:
    """Return the preferred runs among those that match a reference; more than one if it is ambiguous.

    Preferred are finished runs of this workspace, then published ones, then the newest run of this
    name that failed or did not finish. runs: the oldest first.
    """
    finished = [run for run in runs if run.status == "finished"]
    local = [run for run in finished if run.published is None]
    if not finished and all(run.name == reference for run in runs):
        return list(runs[-1:])
    return local or finished or list(runs)


def _refuse_published(run: Run) -> None:
    if run.published is not None:
        raise StoreError(
            f"The run {run.name!r} ({run.id}) belongs to a published comparison; `puma published remove "
            f"{run.published.get('comparison')}` removes the comparison with its runs."
        )
