"""Shared by all commands: the workspace, output as text or JSON, executing or queueing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.backbone.templates import get_template
from puma_engine.errors import ConfigError, StoreError
from puma_engine.training import distributed

if TYPE_CHECKING:
    from puma_engine.store import Run, Workspace


class Session:
    """An invocation of the command line: the workspace's folder, and whether to print JSON."""

    path: Path | None = None
    as_json = False

    def open(self, *, create: bool = False, together: bool = False) -> Workspace:
        """Open the workspace; create it if requested. Raises ConfigError, StoreError.

        together: whether several processes of a launcher may share the work.
        """
        from puma_engine.store import Workspace

        if distributed.world_size() > 1 and not together:
            raise ConfigError(
                f"This command works in one process, and {distributed.world_size()} were started; run it "
                "without a launcher."
            )
        return Workspace.open(self.path, create=create)

    def do(
        self,
        command: str,
        title: str,
        *,
        queue: bool = False,
        show: Callable[[Any], None] | None = None,
        on: str | None = None,
        **arguments: Any,
    ) -> None:
        """Execute a stage now, with a progress bar, or queue it as a job; then show the result.

        on: where it runs, see `puma_engine.jobs.dispatch`. show: prints the result (default: its
        record). Paths are made absolute for the queue.
        """
        from puma_engine.cli.progress_bars import watched
        from puma_engine.jobs import dispatch

        if on is not None:
            arguments["on"] = dispatch.checked_address(on)
        for name, value in arguments.items():
            if isinstance(value, Path):
                arguments[name] = str(value.resolve())
        if arguments.get("template"):
            # A job holds the content of a template file, which may be gone when it runs.
            arguments["template"] = get_template(arguments["template"]).spec
        create = command in ("import_dataset", "add_backbone", "demo")
        ws = self.open(create=create, together=not queue)
        if queue:
            from puma_engine.jobs import enqueue
            from puma_engine.pipeline.publishing import check_models

            check_models(ws, command, arguments)
            # The title of a job names the runs whose ids are arguments.
            for value in arguments.values():
                if isinstance(value, str) and value in title.split():
                    with contextlib.suppress(StoreError):
                        title = title.replace(value, ws.run(value).name)
            self.show(enqueue(ws, command, arguments, title=title))
            return
        with watched(title, quiet=self.as_json) as (progress, should_cancel):
            result = dispatch.run_command(
                ws, command, progress=progress, should_cancel=should_cancel, **arguments
            )
        requested_name = arguments.get("name")
        if requested_name and getattr(result, "name", requested_name) != requested_name:
            print(
                f"This run exists already, as {result.name!r} ({result.id}); the name {requested_name!r} is "
                "not used.",
                file=sys.stderr,
            )
        if show is not None:
            show(result)
        elif isinstance(result, list):
            self.table([run_row(run) for run in result], raw=result)
        else:
            self.show(result)

    def list_runs(self, kind: str, *columns: str) -> None:
        """Print the runs of a kind, with these values of their summaries."""
        runs = self.open().runs(kind=kind)
        rows = [
            {"id": run.id, "name": run.name, "status": run.status}
            | {name: run.summary.get(name) for name in columns}
            for run in runs
        ]
        self.table(rows, raw=runs)

    def show(self, value: Any) -> None:
        """Print a record: JSON, or one line for each field."""
        if self.as_json:
            self.json(value)
            return
        for name, field in flat(plain(value)):
            print(f"{name}: {text_of(field)}")

    def table(self, rows: Sequence[Mapping[Any, Any]], *, raw: Any = None) -> None:
        """Print rows as a table, or as JSON (raw instead of rows, if given)."""
        if self.as_json:
            self.json(raw if raw is not None else list(rows))
            return
        if not rows:
            print("Nothing yet.")
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in rows[0]:
            table.add_column(name.replace("_", " "), overflow="fold")
        for row in rows:
            table.add_row(*(Text(text_of(row.get(name))) for name in rows[0]))
        Console(width=None if sys.stdout.isatty() else 160).print(table)

    def json(self, value: Any) -> None:
        """Print JSON; a missing or infinite number becomes null."""
        utf = str(getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        print(json.dumps(plain(value), indent=1, ensure_ascii=not utf))


# The session of this process; the common options set it.
session = Session()


def plain(value: Any) -> Any:
    """Return a value made of JSON types only."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def flat(record: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the fields of nested records, with dotted names; empty values are left out."""
    if not isinstance(record, dict):
        return [(prefix, record)]
    fields: list[tuple[str, Any]] = []
    for name, value in record.items():
        if value not in (None, {}, []):
            fields += flat(value, f"{prefix}.{name}" if prefix else name)
    return fields


def text_of(value: Any) -> str:
    """Return a value as text for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (
            "-" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        )
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        if any(isinstance(item, dict | list) for item in value):
            return f"{len(value)} entries"
        return ", ".join(text_of(item) for item in value)
    return str(value)


def run_row(run: Run) -> dict[str, Any]:
    """Return the columns of a run in a list of runs."""
    return {
        "id": run.id,
        "kind": run.kind,
        "name": run.name,
        "status": run.status,
        "seconds": run.seconds,
        "created": date_text(run.created),
    }


def date_text(date: str | None) -> str | None:
    """Return a stored date and time without fractions of a second."""
    return None if date is None else date[:19]
