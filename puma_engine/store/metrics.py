"""Metrics of runs: pooled ones with intervals, and those of each user."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from puma_engine.errors import StoreError
from puma_engine.store.records import plain
from puma_engine.store.run_records import damaged_results
from puma_engine.store.runs import Runs

COLUMNS = ("method", "split", "metric", "value", "low", "high", "n")


class Metrics(Runs):
    """The part of a workspace that stores metrics."""

    def put_metrics(self, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store the metrics of a running run: split, metric, value; optional method, low, high, n.

        Earlier metrics of the run are replaced. Raises StoreError.
        """
        values = []
        for row in rows:
            unknown = sorted(set(row) - set(COLUMNS))
            if unknown or row.get("split") is None or row.get("metric") is None:
                raise StoreError(
                    f"A metric has split, metric and value, and maybe method, low, high and n; "
                    f"this one has {', '.join(row)}."
                )
            values.append([plain(row.get(name), "metric") for name in COLUMNS])
        self._replace(run_id, "metrics", COLUMNS, values)

    def _replace(
        self, run_id: str, table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        with self.transaction():
            self._check_running(run_id)
            self._write(run_id, table, names, rows)

    def _write(
        self, run_id: str, table: str, names: Sequence[str], rows: Iterable[Sequence[Any]]
    ) -> None:
        self.db.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
        self.db.conn.executemany(
            f"INSERT INTO {table} (run_id, {', '.join(names)}) VALUES (?{', ?' * len(names)})",
            ([run_id, *row] for row in rows),
        )

    def metrics(self, run_id: str | None = None) -> pd.DataFrame:
        """Return metrics of one run, or of all: run_id, method, split, metric, value, low, high, n.

        Raises NotFoundError, or StoreError for a run with damaged metrics. Without a run id such
        runs are left out.
        """
        chosen = [] if run_id is None else [self._get(run_id).id]
        damaged = self.runs_with_damaged_results(*chosen)
        if chosen and damaged:
            raise StoreError(damaged_results(chosen[0]))
        where = "WHERE run_id = ?" if chosen else ""
        names = ("run_id", *COLUMNS)
        rows = self.query(f"SELECT {', '.join(names)} FROM metrics {where} ORDER BY id", chosen)
        rows = [row for row in rows if row["run_id"] not in damaged]
        frame = pd.DataFrame(rows, columns=list(names))
        return frame.astype(dict.fromkeys(("value", "low", "high"), "float64"))

    def put_user_metrics(self, run_id: str, frame: pd.DataFrame) -> None:
        """Store the metrics of each user of a running run: user_id, n, and columns named as metrics.

        Raises StoreError for other columns or a repeated user.
        """
        names, values = self._user_rows(frame)
        self._replace(run_id, "user_metrics", names, values)

    def write_user_metrics(self, run_id: str, frame: pd.DataFrame) -> None:
        """Write the metrics of each user of a finished run again; part of a transaction."""
        self._write(run_id, "user_metrics", *self._user_rows(frame))

    def _user_rows(self, frame: pd.DataFrame) -> tuple[list[str], Iterable[Sequence[Any]]]:
        names = list(frame.columns)
        known = set(self.db.table("user_metrics").columns_dict) - {"run_id"}
        if not {"user_id", "n"} <= set(names) <= known:
            raise StoreError(
                f"Metrics of users need user_id and n, and may have {', '.join(sorted(known))}; "
                f"these have {', '.join(map(str, names))}."
            )
        if frame["user_id"].duplicated().any():
            raise StoreError(
                "Metrics of users need one row for each user; some users are repeated."
            )
        columns = [frame[name].astype(str) if name == "user_id" else frame[name] for name in names]
        return names, zip(*(plain(column.tolist(), "metric") for column in columns), strict=True)

    def user_metrics(self, run_id: str, users: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the metrics of each user of a run, or of some users, by user id.

        A metric that no user has is left out; NaN means undefined for this user.
        """
        user_ids = [] if users is None else list(users)
        chosen = "" if users is None else f" AND user_id IN ({', '.join('?' * len(user_ids))})"
        rows = self.query(
            f"SELECT * FROM user_metrics WHERE run_id = ?{chosen} ORDER BY user_id",
            [self._get(run_id).id, *user_ids],
        )
        names = [name for name in self.db.table("user_metrics").columns_dict if name != "run_id"]
        frame = pd.DataFrame(rows, columns=names)
        numbers = [name for name in names if name not in ("user_id", "n")]
        frame = frame.astype(dict.fromkeys(numbers, "float64") | {"n": "int64"})
        return frame.drop(columns=[name for name in numbers if frame[name].isna().all()])
