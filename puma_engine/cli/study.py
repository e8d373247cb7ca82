"""puma study: declared experiments."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from puma_engine.cli.config_options import Device
from puma_engine.cli.session import plain, session
from puma_engine.errors import ConfigError, StudyError

if TYPE_CHECKING:
    from puma_engine.studies import Cell, Options, Outcome, Study

VERSIONS = ("torch", "transformers", "accelerate", "numpy", "scikit-learn")


Datasets = Annotated[
    list[str] | None, typer.Option("--dataset", help="Data set; may be given several times.")
]
Seeds = Annotated[
    list[int] | None, typer.Option("--seed", help="Seed; may be given several times.")
]
Shares = Annotated[
    list[float] | None,
    typer.Option("--share", help="Share of users who train; may be given several times."),
]
Strategies = Annotated[
    list[str] | None,
    typer.Option("--strategy", help="Of table4, beside random; several times (default: all)."),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        help="Cells to run at the same time (default: 1; 2 for quick ones on two CPU cores).",
    ),
]
Minutes = Annotated[float | None, typer.Option("--minutes", help="Begin no cell later than this.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for NAME.json, its tables and figures.")]
Fixed = Annotated[
    bool, typer.Option("--fixed", help="Try no grids; use the settings that are the default.")
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="Of every training: auto, fp32, bf16 or fp16.")
]
Settings = Annotated[
    Path | None,
    typer.Option("--settings", help="Report of this study whose chosen settings are used again."),
]
Render = Annotated[
    bool, typer.Option("--render", help="Only draw tables and figures from NAME.json.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the tree."""
    app.command("study")(study)


def study(
    name: Annotated[
        str | None, typer.Argument(help="Study to run; without one the studies are listed.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few users, short grids and one or two seeds.")
    ] = False,
    fixed: Fixed = False,
    settings: Settings = None,
    datasets: Datasets = None,
    seeds: Seeds = None,
    shares: Shares = None,
    strategies: Strategies = None,
    users: Annotated[
        int | None, typer.Option("--users", help="Users of each data set (default: all).")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="Source backbone.")] = "llama-small",
    target: Annotated[str, typer.Option("--target", help="Target backbone.")] = "llama-medium",
    processes: Processes = None,
    minutes: Minutes = None,
    out: Out = Path("results"),
    render: Render = False,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Run a declared experiment; what was done before is not done again.

    Every cell is a run of the workspace, so that a study that was stopped goes on, and the
    dashboard shows it. Results are written as they come.
    """
    from puma_engine.studies import STUDIES, Options, get_study

    if name is None:
        session().table([{"study": one.name, "about": one.about} for one in STUDIES.values()])
        return
    wanted = get_study(name)
    if render:
        _render(wanted, out)
        return
    given: dict[str, Any] = {
        "datasets": tuple(datasets or ()),
        "seeds": tuple(seeds or ()),
        "shares": tuple(shares or ()),
        "strategies": tuple(strategies or ()),
        "users": users,
    }
    chosen = (wanted.quick if quick else {}) | {k: v for k, v in given.items() if v}
    options = Options(source=source, target=target, quick=quick, fixed=fixed, **chosen)
    how = {"processes": processes, "minutes": minutes, "device": device, "precision": precision}
    _run(wanted, options, out, how, _chosen(wanted, settings))


def usual_processes(quick: bool, device: str | None) -> int:
    """Return two for a quick study on two CPU cores: its trainings fill one; on a GPU they take turns."""
    from puma_engine.training.device import resolve_device

    return 2 if quick and (os.cpu_count() or 1) > 1 and resolve_device(device) == "cpu" else 1


def _chosen(wanted: Study, report: Path | None) -> dict[str, Any]:
    """Settings by the choice that they were the outcome of."""
    if report is None:
        return {}
    from puma_engine.studies import load_report

    remedy = f"give the NAME.json that `puma study {wanted.name}` wrote"
    known = load_report(report, remedy)
    settings = known.get("settings")
    named = isinstance(settings, dict) and all(isinstance(one, dict) for one in settings.values())
    if known["study"] != wanted.name or not named:
        raise ConfigError(f"{report} is no report of the study {wanted.name}; {remedy}.")
    return dict(known["settings"])


def _run(
    wanted: Study, options: Options, out: Path, how: dict[str, Any], lent: dict[str, Any]
) -> None:
    from puma_engine.cli.progress_bars import watched
    from puma_engine.files import write_json
    from puma_engine.studies import keep_report, lend, run_cells

    ws = session().open(create=True)
    how["processes"] = how["processes"] or usual_processes(options.quick, how["device"])
    cells = lend(wanted.cells(options), lent)
    out.mkdir(parents=True, exist_ok=True)

    def keep(outcome: Outcome, *, whole: bool = False) -> None:
        report = _report(ws, wanted, options, cells, outcome, whole)
        report["settings"] = lent | report["settings"]
        write_json(out / f"{wanted.name}.json", plain(report))
        keep_report(ws, plain(report))

    with watched(f"study {wanted.name}", quiet=session().as_json) as (progress, should_cancel):
        outcome = run_cells(
            ws, cells, progress=progress, should_cancel=should_cancel, keep=keep, **how
        )
    keep(outcome, whole=True)
    _render(wanted, out)
    if outcome.failed:
        first = next(iter(outcome.failed.items()))
        raise StudyError(
            f"{len(outcome.failed)} of {len(cells)} cells failed (first: {first[0]}: {first[1]}); "
            "mend the cause and run the study again, which goes on where it was."
        )


def _report(
    ws: Any,
    wanted: Study,
    options: Options,
    cells: list[Cell],
    outcome: Outcome,
    whole: bool,
) -> dict[str, Any]:
    """What is known so far; the differences, which take long, only of the whole."""
    from puma_engine.studies import collect

    return {
        "study": wanted.name,
        "command": "puma " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {one: importlib.metadata.version(one) for one in VERSIONS},
        "options": plain(options),
        **collect(ws, wanted, cells, outcome.runs, whole=whole),
        "failed": outcome.failed,
        "missing": [cell.name for cell in cells if cell.name not in outcome.runs],
    }


def _render(wanted: Study, out: Path) -> None:
    from puma_engine.studies import load_report
    from puma_engine.studies.reports import write

    file = out / f"{wanted.name}.json"
    files = write(load_report(file, f"run `puma study {wanted.name} --out {out}` first"), out)
    session().show({"results": str(file), "tables": str(files[0]), "figures": len(files) - 1})
