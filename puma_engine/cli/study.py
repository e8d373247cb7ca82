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

from puma_engine.cli.config_options import Device, renamed_option
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
    typer.Option(
        "--strategy",
        help="Strategy that table4 compares with random; may be given several times (default: all).",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        help="Cells to run at the same time (default: 1; 2 for quick ones on two CPU cores).",
    ),
]
Minutes = Annotated[
    float | None, typer.Option("--minutes", help="Start no cell after so many minutes.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for NAME.json, its tables and figures.")]
DefaultSettings = Annotated[
    bool,
    typer.Option("--default-settings", help="Train with the default settings, without tuning."),
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="Of every training: auto, fp32, bf16 or fp16.")
]
SettingsFrom = Annotated[
    Path | None,
    typer.Option("--settings-from", help="Report of this study whose tuned settings are reused."),
]
Render = Annotated[
    bool, typer.Option("--render", help="Only write tables and figures from NAME.json.")
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
    default_settings: DefaultSettings = False,
    fixed: Annotated[bool, renamed_option("--fixed", "--default-settings")] = False,
    settings_from: SettingsFrom = None,
    settings: Annotated[Path | None, renamed_option("--settings", "--settings-from")] = None,
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
    """Run a declared experiment; runs that the workspace has already are not made again.

    Every cell of a study is a run of the workspace. A study that was stopped therefore continues,
    and the dashboard shows it. Results are written while the study runs.
    """
    from puma_engine.cli.progress_bars import watched
    from puma_engine.files import write_json
    from puma_engine.studies import (
        STUDIES,
        Options,
        get_study,
        reuse_settings,
        run_cells,
        save_report,
    )

    if name is None:
        session().table([{"study": study.name, "about": study.about} for study in STUDIES.values()])
        return
    selected = get_study(name)
    if render:
        _render(selected, out)
        return
    given: dict[str, Any] = {
        "datasets": tuple(datasets or ()),
        "seeds": tuple(seeds or ()),
        "shares": tuple(shares or ()),
        "strategies": tuple(strategies or ()),
        "users": users,
    }
    chosen = (selected.quick if quick else {}) | {k: v for k, v in given.items() if v}
    options = Options(
        source=source, target=target, quick=quick, fixed=default_settings or fixed, **chosen
    )
    reused = _tuned_settings(selected, settings_from or settings)
    cells = reuse_settings(selected.cells(options), reused)
    ws = session().open(create=True)
    out.mkdir(parents=True, exist_ok=True)

    def save(outcome: Outcome, *, whole: bool = False) -> None:
        report = plain(_report(ws, selected, options, cells, outcome, whole))
        report["settings"] = reused | report["settings"]
        write_json(out / f"{selected.name}.json", report)
        save_report(ws, report)

    with watched(f"study {selected.name}", quiet=session().as_json) as (progress, should_cancel):
        outcome = run_cells(
            ws,
            cells,
            processes=processes or default_processes(quick, device),
            minutes=minutes,
            device=device,
            precision=precision,
            progress=progress,
            should_cancel=should_cancel,
            save=save,
        )
    save(outcome, whole=True)
    _render(selected, out)
    if outcome.failed:
        cell, message = next(iter(outcome.failed.items()))
        raise StudyError(
            f"{len(outcome.failed)} of {len(cells)} cells failed (first: {cell}: {message}); "
            "fix the cause and run the study again, which continues where it was."
        )


def default_processes(quick: bool, device: str | None) -> int:
    """Return 2 for a quick study on two or more CPU cores, where a training fills one, else 1."""
    from puma_engine.training.device import resolve_device

    return 2 if quick and (os.cpu_count() or 1) > 1 and resolve_device(device) == "cpu" else 1


def _tuned_settings(selected: Study, report: Path | None) -> dict[str, Any]:
    """Return the settings that a report's candidates chose, by the cell that chose them."""
    if report is None:
        return {}
    from puma_engine.studies import load_report

    remedy = f"give the NAME.json that `puma study {selected.name}` wrote"
    loaded = load_report(report, remedy)
    settings = loaded.get("settings")
    valid = isinstance(settings, dict) and all(isinstance(v, dict) for v in settings.values())
    if loaded["study"] != selected.name or not valid:
        raise ConfigError(f"{report} is no report of the study {selected.name}; {remedy}.")
    return dict(loaded["settings"])


def _report(
    ws: Any,
    selected: Study,
    options: Options,
    cells: list[Cell],
    outcome: Outcome,
    whole: bool,
) -> dict[str, Any]:
    """Return the report so far. whole: take intervals over users, which needs all predictions."""
    from puma_engine.studies import collect

    return {
        "study": selected.name,
        "command": "puma " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in VERSIONS},
        "options": plain(options),
        **collect(ws, selected, cells, outcome.runs, whole=whole),
        "failed": outcome.failed,
        "missing": [cell.name for cell in cells if cell.name not in outcome.runs],
    }


def _render(selected: Study, out: Path) -> None:
    from puma_engine.studies import load_report
    from puma_engine.studies.reports import write_tables_and_figures

    file = out / f"{selected.name}.json"
    report = load_report(file, f"run `puma study {selected.name} --out {out}` first")
    files = write_tables_and_figures(report, out)
    session().show({"results": str(file), "tables": str(files[0]), "figures": len(files) - 1})
