"""puma study and puma claims: declared experiments, and the claims of the paper that they reproduce."""

from __future__ import annotations

import datetime
import importlib.metadata
import inspect
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puma_engine.cli.options import with_options
from puma_engine.cli.session import plain, session
from puma_engine.errors import ConfigError, StudyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from puma_engine.store import Workspace
    from puma_engine.studies import Cell, Options, Outcome, Study

VERSIONS = ("torch", "transformers", "accelerate", "numpy", "scikit-learn")


@with_options(
    "name",
    name="Study to run; without one the studies are listed.",
    quick="Few users, short grids and one or two seeds.",
    default_settings="Train with the default settings, without tuning.",
    settings_from="Report of this study whose tuned settings are reused.",
    dataset="Data set that ships, or SOURCE=PATH of original files, such as yelp=downloads/yelp; may be given several times.",
    seed="Seed; may be given several times.",
    share="Share of users who train; may be given several times.",
    strategy="Strategy that table4 compares with random; may be given several times (default: all).",
    users={"help": "Users of each data set (default: all).", "min": 1},
    source="Source backbone.",
    target="Target backbone.",
    order="Order of the template: prompt-first, item-first or prompt-last (default: by task).",
    processes={
        "help": "Cells to run at the same time (default: 1; 2 for quick ones on two CPU cores; on a cluster "
        "as many as have room).",
        "min": 1,
    },
    minutes="Minutes after which no cell starts.",
    out="Folder for NAME.json, its tables and figures.",
    render="Only write tables and figures from NAME.json.",
    precision="Of every training: auto, fp32, bf16 or fp16.",
)
def study(
    name: str | None = None,
    quick: bool = False,
    default_settings: bool = False,
    settings_from: Path | None = None,
    dataset: list[str] | None = None,
    seed: list[int] | None = None,
    share: list[float] | None = None,
    strategy: list[str] | None = None,
    users: int | None = None,
    source: str = "llama-small",
    target: str = "llama-medium",
    order: str | None = None,
    processes: int | None = None,
    minutes: float | None = None,
    out: Path = Path("results"),
    render: bool = False,
    device: str | None = None,
    on: str | None = None,
    workers: int | None = None,
    precision: str | None = None,
) -> None:
    """Run a declared experiment; existing runs of the workspace are reused.

    Every cell of a study is a run of the workspace. So a stopped study continues, and the dashboard
    shows it. Results are written while the study runs.
    """
    given = _given(locals())
    from puma_engine import studies
    from puma_engine.cli.progress_bars import watched

    if name is None:
        if given:
            raise ConfigError(
                f"Without the name of a study all are listed, which {', '.join(given)} would not change; "
                "name a study, or leave them out."
            )
        listed = [
            {"study": entry.name, "about": entry.description} for entry in studies.STUDIES.values()
        ]
        session.table(listed)
        return
    selected = studies.get_study(name)
    if render:
        if ignored := [option for option in given if option not in ("--render", "--out")]:
            raise ConfigError(
                "--render writes tables and figures from a report as it is, which "
                f"{', '.join(ignored)} would not change; leave them out."
            )
        _render(selected, out)
        return
    if default_settings and settings_from is not None:
        raise ConfigError(
            "With --default-settings nothing is tuned, so --settings-from would change nothing; give one of them."
        )
    overrides: dict[str, Any] = {
        "datasets": tuple(dataset or ()),
        "seeds": tuple(seed or ()),
        "shares": tuple(share or ()),
        "strategies": tuple(strategy or ()),
        "users": users,
    }
    chosen = (selected.quick if quick else {}) | {k: v for k, v in overrides.items() if v}
    options = studies.Options(
        source=source, target=target, order=order, quick=quick, fixed=default_settings, **chosen
    )
    selected.check_used(options)
    reused = _tuned_settings(selected, settings_from)
    ws = session.open(create=True)
    if quick and users is None:
        with watched("measuring the models", quiet=session.as_json):
            options = studies.quick_options(
                ws, selected, options, device=device, precision=precision
            )
    _run(
        ws,
        selected,
        options,
        reused,
        out,
        processes=processes or default_processes(quick, device, on),
        minutes=minutes,
        device=device,
        on=on,
        workers=workers,
        precision=precision,
    )


def _given(arguments: Mapping[str, Any]) -> list[str]:
    """Return the options of `puma study` whose values are not the default, as --NAME."""
    declared = inspect.signature(study).parameters
    return [
        f"--{name.replace('_', '-')}"
        for name, value in arguments.items()
        if name != "name" and value not in (declared[name].default, [])
    ]


def _run(
    ws: Workspace,
    selected: Study,
    options: Options,
    reused: dict[str, Any],
    out: Path,
    **execution: Any,
) -> None:
    """Run the cells of a study, and write its report from time to time and in the end.

    reused: tuned settings of an earlier report. execution: arguments of
    `puma_engine.studies.run_cells`. Raises StudyError where cells failed.
    """
    from puma_engine import studies
    from puma_engine.cli.progress_bars import watched
    from puma_engine.files import write_json

    cells = studies.reuse_settings(selected.cells(options), reused)
    out.mkdir(parents=True, exist_ok=True)

    def save(outcome: Outcome, *, over_users: bool = False) -> None:
        results = studies.collect(ws, selected, cells, outcome.runs, over_users=over_users)
        report = _report_of(selected, options, reused, cells, outcome, results)
        write_json(out / f"{selected.name}.json", report)
        studies.save_report(ws, report)

    with watched(f"study {selected.name}", quiet=session.as_json) as (progress, should_cancel):
        outcome = studies.run_cells(
            ws, cells, progress=progress, should_cancel=should_cancel, save=save, **execution
        )
    # Intervals over users need the predictions of all cells.
    save(outcome, over_users=True)
    _render(selected, out)
    if outcome.failed:
        cell, message = next(iter(outcome.failed.items()))
        raise StudyError(
            f"{len(outcome.failed)} of {len(cells)} cells failed (first: {cell}: {message}); "
            "fix the cause and run the study again, which continues where it was."
        )


def _report_of(
    selected: Study,
    options: Options,
    reused: dict[str, Any],
    cells: Sequence[Cell],
    outcome: Outcome,
    results: dict[str, Any],
) -> dict[str, Any]:
    """Return the report of a study: its options and versions, results, and missing cells.

    reused: tuned settings of an earlier report. results: of `puma_engine.studies.collect`.
    """
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    made: dict[str, Any] = {
        "study": selected.name,
        "command": "puma " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": platform.python_version()} | versions,
        "options": options,
    }
    incomplete = {
        "failed": outcome.failed,
        "missing": [cell.name for cell in cells if cell.name not in outcome.runs],
    }
    settings = {"settings": reused | results["settings"]}
    return dict(plain(made | results | incomplete | settings))


def default_processes(quick: bool, device: str | None, on: str | None = None) -> int | None:
    """Return 2 for a quick study on two or more CPU cores, where a training uses one; otherwise 1.

    None on a cluster, which computes as many cells as it has room for.
    """
    from puma_engine.jobs.dispatch import cluster_address
    from puma_engine.training.device import resolve_device

    if cluster_address(on) is not None:
        return None
    return 2 if quick and (os.cpu_count() or 1) > 1 and resolve_device(device) == "cpu" else 1


def _tuned_settings(selected: Study, report: Path | None) -> dict[str, Any]:
    """Return the tuned settings in a report, by the "best" cell that chose them."""
    if report is None:
        return {}
    from puma_engine.studies import load_report

    remedy = f"give the NAME.json that `puma study {selected.name}` wrote"
    loaded = load_report(report, remedy)
    settings = loaded.get("settings")
    valid = isinstance(settings, dict) and all(isinstance(v, dict) for v in settings.values())
    if loaded["study"] != selected.name or not valid:
        raise ConfigError(f"{report} is not a report of the study {selected.name}; {remedy}.")
    return dict(loaded["settings"])


def _render(selected: Study, out: Path) -> None:
    from puma_engine.studies import load_report
    from puma_engine.studies.reports import write_tables_and_figures

    file = out / f"{selected.name}.json"
    report = load_report(file, f"run `puma study {selected.name} --out {out}` first")
    files = write_tables_and_figures(report, out)
    session.show({"results": str(file), "tables": str(files[0]), "figures": len(files) - 1})


@with_options(
    results="Folder of reports (default: those published with PUMA).",
    workspace_reports="Use the reports of this workspace.",
    markdown="Page to write into, between <!-- claims --> and <!-- /claims -->.",
)
def claims(
    results: Path | None = None, workspace_reports: bool = False, markdown: Path | None = None
) -> None:
    """Print for each claim of the paper whether it is reproduced, on each data set.

    The evidence is the published reports, those of a folder, or those of the workspace.
    """
    from puma_engine.studies import evidence

    if workspace_reports and results is not None:
        raise ConfigError("Give --workspace-reports or --results, not both.")
    if workspace_reports:
        reports = evidence.workspace_evidence(session.open())
    else:
        root = results or evidence.results_root()
        if root is None or not root.is_dir():
            raise StudyError(
                f"There are no published reports in {root or 'docs/results'}; name their folder with "
                "--results, or use those of the workspace with --workspace-reports."
            )
        reports = evidence.published_evidence(root)
    rows = evidence.findings_by_model(reports)
    if not rows:
        raise StudyError(
            "There are no reports of studies that answer a claim; `puma study table2 --quick` makes "
            "one, which --workspace-reports reads from the workspace and --results from its folder."
        )
    if markdown is not None:
        if not markdown.is_file():
            raise ConfigError(f"There is no page {markdown} to write the claims into.")
        page = markdown.read_text(encoding="utf-8")
        page = evidence.replace_between_marks(page, evidence.findings_markdown(rows))
        markdown.write_text(page, encoding="utf-8")
    shown = [
        {
            "claim": finding.claim.name,
            "data": finding.dataset,
            "here": finding.verdict,
            "in_ranking": finding.ranking and finding.ranking.verdict,
            "figures": finding.figures,
            "report": finding.evidence.name if finding.evidence else None,
        }
        for finding in rows
    ]
    details = [
        {
            "text": finding.claim.text,
            "rule": finding.claim.rule,
            "made": finding.evidence and finding.evidence.provenance,
            "ranking_figures": finding.ranking and finding.ranking.figures,
            "outlook": finding.assessed and finding.assessed.outlook,
            "more_seeds": finding.assessed and finding.assessed.more_seeds,
        }
        for finding in rows
    ]
    session.table(shown, raw=[line | more for line, more in zip(shown, details, strict=True)])
