"""Evidence, view "Claims of the paper": a matrix of claims and data sets, and one verdict in full."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import pages
from dashboard.components import figures, page_states, query_params, verdicts
from dashboard.components.formatting import capitalised, escaped, unbroken
from dashboard.components.theme import NEUTRAL, marker
from dashboard.engine import studies
from dashboard.engine.studies import claims, evidence

MAX_TEXT = 1000
CLAIM_WIDTH, CELL_WIDTH, GAP = 240, 120, 4  # pixels
ROW_HEIGHT, AXES_HEIGHT = 34, 96  # pixels of the chart


def show(
    reports: Sequence[evidence.Evidence], address: Mapping[str, str], study_param: str
) -> None:
    """Draw the verdicts of these reports, and the one that the address names in full.

    address: query parameters that open one study of the same reports; study_param: the name of
    the parameter that holds the study.
    """
    columns = evidence.findings_by_column(reports)
    if not columns:
        answering = dict.fromkeys(claim.study for claim in claims.CLAIMS)
        page_states.empty(
            "No study here answers a claim",
            f"The claims are answered by the studies {', '.join(answering)}. "
            "`puma study table2 --quick` runs the first on few users.",
        )
        return
    columns = _columns_of_model(columns)
    names = {claim.name: claim for claim in claims.CLAIMS}
    claim = query_params.read("claim", names, _first_answered(columns))
    column = query_params.read("data", columns, next(iter(columns)))
    assert claim is not None and column is not None  # there are defaults
    _tally(columns)
    width = CLAIM_WIDTH + 30 + len(columns) * (CELL_WIDTH + GAP)
    # page.css puts the details below the matrix where there is no room beside it.
    with st.container(key="claims"):
        matrix, details = st.columns([width, max(1108 - width, 340)], gap="medium")
    with matrix, st.container(gap="xxsmall", key="claim-matrix"):
        _matrix(columns, claim, column)
    with details:
        _details(columns[column][claim], column, address, study_param)


def _columns_of_model(
    columns: dict[str, dict[str, evidence.Finding]],
) -> dict[str, dict[str, evidence.Finding]]:
    """Return the columns of the models that ship, or those of another model that the reader chooses."""
    models = {name: evidence.model_of_column(name) for name in columns}
    labels = {model: evidence.model_heading(model) for model in models.values()}
    if len(labels) < 2:
        return columns
    asked = query_params.read("data", columns)
    model = query_params.segment(
        "Models",
        {name: label or "Models that ship" for name, label in labels.items()},
        "models",
        default=None if asked is None else models[asked],
        follows=True,
        label_visibility="collapsed",
    )
    return {name: findings for name, findings in columns.items() if models[name] == model}


def _first_answered(columns: Mapping[str, Mapping[str, evidence.Finding]]) -> str:
    findings = next(iter(columns.values()))
    return next(name for name, finding in findings.items() if finding.evidence is not None)


def _tally(columns: Mapping[str, Mapping[str, evidence.Finding]]) -> None:
    """Show how many verdicts there are of each kind."""
    counts: Counter[str] = Counter(
        finding.verdict
        for findings in columns.values()
        for finding in findings.values()
        if finding.evidence is not None
    )
    with st.container(horizontal=True, gap="small"):
        for verdict in verdicts.CLAIM_STATUSES:
            if counts[verdict]:
                verdicts.badge(verdict, counts[verdict])


def _matrix(columns: Mapping[str, Mapping[str, evidence.Finding]], claim: str, column: str) -> None:
    """Draw a row for each claim with evidence, with a button for the verdict on each data set."""
    with _row("**Claim of the paper**", len(columns)):
        for name in columns:
            st.markdown(
                f"**{escaped(evidence.column_heading(name))}**",
                width=CELL_WIDTH,
                text_alignment="center",
            )
    quick = differs = False
    without = [item for item in claims.CLAIMS if not _has_evidence(columns, item)]
    for item in claims.CLAIMS:
        if item in without:
            continue
        with _row(escaped(item.text, MAX_TEXT), len(columns)):
            for number, (name, findings) in enumerate(columns.items()):
                finding = findings[item.name]
                trial = finding.evidence is not None and finding.evidence.quick
                ranks = finding.ranking is not None and finding.ranking.verdict != finding.verdict
                quick, differs = quick or trial, differs or ranks
                marks = (" °" if trial else "") + (r" \*" if ranks else "")
                shown = verdicts.CLAIM_STATUSES[finding.verdict]
                st.button(
                    f":{shown.colour}-badge[{shown.label}{marks}]",
                    key=f"verdict {item.name} {number}",
                    width=CELL_WIDTH,
                    type="secondary" if (item.name, name) == (claim, column) else "tertiary",
                    help=_about(finding, name),
                    on_click=_choose,
                    args=(item.name, name),
                )
    if quick:
        st.caption("° A quick trial on few users. A larger study replaces it.")
    if differs:
        st.caption(r"\* Another verdict in ranking, which is shown with the verdict in full.")
    if without:
        st.caption(
            "No study here answers: " + " ".join(escaped(item.text, MAX_TEXT) for item in without)
        )


def _has_evidence(
    columns: Mapping[str, Mapping[str, evidence.Finding]], claim: claims.Claim
) -> bool:
    return any(findings[claim.name].evidence is not None for findings in columns.values())


def _row(text: str, cells: int) -> DeltaGenerator:
    """Draw the first cell of a row; return the container of the others, below it in a narrow window.

    page.css makes those as narrow there as the window asks for.
    """
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
        st.markdown(text, width=CLAIM_WIDTH)
        return st.container(
            horizontal=True,
            gap="xxsmall",
            vertical_alignment="center",
            width=cells * (CELL_WIDTH + GAP),
        )


def _about(finding: evidence.Finding, column: str) -> str:
    """Return what a click on a verdict shows, and what would settle an undecided one."""
    outlook = "" if finding.assessed is None else finding.assessed.outlook
    return f"The verdict on {escaped(evidence.column_heading(column))} in full. {outlook}".strip()


def _choose(claim: str, column: str) -> None:
    query_params.write("claim", claim)
    query_params.write("data", column)


def _details(
    finding: evidence.Finding, column: str, address: Mapping[str, str], study_param: str
) -> None:
    """Show a verdict with its chart, its figures, its rule, and the report behind it."""
    with st.container(border=True, gap="small"):
        st.markdown(f"## {escaped(finding.claim.text, MAX_TEXT)}")
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            verdicts.badge(finding.verdict)
            st.text(f"on {evidence.column_heading(column)}", width="content")
        report, assessed = finding.evidence, finding.assessed
        if report is None or assessed is None:
            st.text(f"It needs a report of the study {finding.claim.study} on this data set.")
            st.caption(escaped(studies.plain(finding.claim.rule), MAX_TEXT))
            return
        _figures(finding, assessed, column)
        if finding.ranking is not None:
            with st.container(horizontal=True, gap="small", vertical_alignment="center"):
                st.markdown("**In ranking**", width="content")
                verdicts.badge(finding.ranking.verdict)
            _figures(finding, finding.ranking, f"{column} ranking")
        st.caption(f"**How it is judged.** {escaped(studies.plain(finding.claim.rule), MAX_TEXT)}")
        with st.container(horizontal=True, vertical_alignment="center"):
            trial = "quick trial, " if report.quick else ""
            st.caption(
                escaped(f"{report.name}: {trial}{report.provenance}", MAX_TEXT), width="stretch"
            )
            if st.button("Open the study", icon=":material/science:", type="tertiary"):
                shown = {study_param: report.name, "dataset": finding.dataset}
                pages.go("studies", **{**address, **shown})


def _figures(finding: evidence.Finding, assessed: claims.ClaimVerdict, name: str) -> None:
    """Draw the intervals that decide a verdict, and show its figures."""
    if assessed.intervals:
        rows = pd.DataFrame([vars(interval) for interval in assessed.intervals])
        axis, _, unit = assessed.axis.partition(" (")
        is_cost = finding.claim.name == "cost"
        measured = "Measured cost" if is_cost else "Measured differences"
        figures.show(
            interval_figure(rows, percent=is_cost),
            rows,
            f"claim-{finding.claim.name}-{name}",
            title=f"{measured}, and the limit of the claim (dotted)",
            x=f"{studies.plain(axis)}<br>({unit}" if unit else axis,
            height=AXES_HEIGHT + ROW_HEIGHT * len(rows),
        )
    st.text(unbroken(capitalised(studies.plain(assessed.figures))))
    if assessed.outlook:
        st.text(assessed.outlook)


def interval_figure(rows: pd.DataFrame, *, percent: bool) -> go.Figure:
    """Draw each deciding interval with the limit up to which the claim holds.

    rows: label, value, low, high and limit, from top to bottom. percent: whether they are shares.
    """
    figure = go.Figure()
    if percent:
        numbers = ["value", "low", "high", "limit"]
        rows = rows.assign(**(100 * rows[numbers]))
    figure.add_scatter(
        x=rows["value"],
        y=rows["label"],
        mode="markers",
        marker=marker("migrated", size=10),
        error_x=figures.error_bars(rows, marker("migrated")["color"]),
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>"
        if percent
        else "%{y}: %{x:.4f}<extra></extra>",
    )
    for row, limit in enumerate(rows["limit"]):
        limit_line = {"y0": row - 0.4, "y1": row + 0.4, "x0": limit, "x1": limit}
        figure.add_shape(
            type="line", **limit_line, line={"color": NEUTRAL, "width": 2, "dash": "dot"}
        )
    # Zero and the limits are always in the picture.
    shown = [*rows["low"], *rows["high"], *rows["limit"], 0.0]
    pad = 0.06 * (max(shown) - min(shown))
    figure.update_xaxes(range=[min(shown) - pad, max(shown) + pad], zeroline=True, nticks=6)
    if percent:
        figure.update_xaxes(ticksuffix=" %")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(showlegend=False)
    return figure
