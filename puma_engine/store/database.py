"""Connections to a workspace's database: settings, transactions, schema, plain errors."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from puma_engine.errors import StoreError
from puma_engine.store.locks import waiting_lock
from puma_engine.store.schema import MIGRATIONS

BUSY_SECONDS = 30.0
# SQLite says "disk I/O error" where its log cannot grow, so little room is named as the reason.
LEAST_ROOM = 1 << 20


def connect(path: Path) -> Database:
    """Open a connection for the calling thread, with foreign keys on and a busy timeout."""
    with plain_errors(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        try:
            db = Database(connection, execute_plugins=False)
            db.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error:
            connection.close()
            raise
    return db


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into StoreError with one sentence."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StoreError(_explain(path, str(error))) from error


def _explain(path: Path, text: str) -> str:
    if "not a database" in text or "malformed" in text:
        return f"The file {path} is no working database ({text}); restore it from a backup."
    if "locked" in text:
        return f"The database {path} stayed locked for {BUSY_SECONDS:.0f} seconds; try again."
    if "full" in text or ("disk I/O" in text and _room(path) < LEAST_ROOM):
        return f"The disk that holds {path} is full; free some space and try again."
    if "readonly" in text or "unable to open" in text:
        return f"The database {path} cannot be opened for writing; check who owns the folder."
    return f"The database {path} refused: {text}."


def _room(path: Path) -> int:
    """Free bytes on the disk of a path."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return 0


@contextmanager
def transaction(db: Database, path: Path) -> Iterator[Database]:
    """Do several statements as one, holding the write lock from the start.

    A plain BEGIN would read first and could then fail to get the write lock; BEGIN
    IMMEDIATE waits for it. Nested use joins the outer transaction.
    """
    with plain_errors(path):
        if db.conn.in_transaction:
            yield db
            return
        db.conn.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.conn.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise


def rows(db: Database, path: Path, sql: str, parameters: Sequence[Any] = ()) -> list[dict]:
    """Return the rows of a query as dictionaries."""
    with plain_errors(path):
        cursor = db.conn.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def bring_up_to_date(db: Database, path: Path, migrations: Migrations = MIGRATIONS) -> None:
    """Apply the schema steps that are missing, each together with the record of it.

    Raises StoreError if the database was made by a newer version or is something else.
    """
    with plain_errors(path):
        _refuse_strangers(db, path, migrations)
        if not migrations.pending(db):
            return
        with waiting_lock(path.with_suffix(".lock")):
            db.enable_wal()
            with transaction(db, path):
                # Looked at again inside: another process may have come first.
                _refuse_strangers(db, path, migrations)
                migrations.apply(db)


def _refuse_strangers(db: Database, path: Path, migrations: Migrations) -> None:
    known = [step.name for step in migrations.pending(Database(memory=True))]
    applied = [step.name for step in migrations.applied(db)]
    unknown = sorted(set(applied) - set(known))
    if unknown:
        raise StoreError(
            f"The workspace {path.parent} was used by a newer version (it has the schema step "
            f"{unknown[-1]!r}, this version ends at {known[-1]!r}); update this program."
        )
    if not applied and db.table_names():
        raise StoreError(f"The file {path} is a database of something else; choose another folder.")
