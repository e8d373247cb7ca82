"""Studies, view "Claims of the paper": the verdict on each claim and the reports behind it."""

from collections import Counter
from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import pages
from dashboard.components import page_states, verdicts
from dashboard.components.formatting import escaped
from dashboard.engine.studies import claims, evidence

MAX_TEXT = 1000


def show(
    reports: Sequence[evidence.Evidence], address: Mapping[str, str], study_param: str
) -> None:
    """Draw the claims with their verdicts from these reports.

    address: query parameters that open one study of the same reports; study_param: the name of
    the parameter that holds the study.
    """
    findings = evidence.findings(reports)
    if not findings:
        answering = dict.fromkeys(claim.study for claim in claims.CLAIMS)
        page_states.empty(
            "No study here answers a claim",
            f"The claims are answered by the studies {', '.join(answering)}. "
            "`puma study table2 --quick` runs the first on few users.",
        )
        return
    counts: Counter[str] = Counter(finding.verdict for finding in findings)
    with st.container(horizontal=True, gap="small"):
        for verdict in verdicts.CLAIM_STATUSES:
            if counts[verdict]:
                verdicts.badge(verdict, counts[verdict])
    st.caption(f"{claims.INTERVALS} {claims.IN_RANKING}")
    for claim, of_claim in evidence.findings_by_claim(findings).items():
        with st.container(border=True, gap="medium"):
            st.markdown(f"**{escaped(claim.text, MAX_TEXT)}**", help=claim.rule)
            for finding in of_claim:
                report = finding.evidence
                if report is not None and _finding(finding, report):
                    names = {study_param: report.name, "dataset": finding.dataset}
                    pages.go("studies", **address, **names)
            without = [finding.dataset for finding in of_claim if finding.evidence is None]
            if without:
                st.caption(
                    f":material/block: No evidence on {escaped(', '.join(without), MAX_TEXT)}: it "
                    f"needs a report of the study `{claim.study}`."
                )


def _finding(finding: evidence.Finding, report: evidence.Evidence) -> bool:
    """Show a finding; return whether its study is to be opened."""
    verdict, figures, source = st.columns([4, 8, 6], gap="small")
    with verdict.container(gap="xsmall"):
        st.text(finding.dataset)
        with st.container(horizontal=True, gap="xsmall"):
            verdicts.badge(finding.verdict)
        if finding.ranking is not None:
            with st.container(horizontal=True, gap="xsmall"):
                st.text("in ranking")
                verdicts.badge(finding.ranking.verdict)
        with st.container(horizontal=True, gap="xsmall"):
            if report.quick:
                text = "On few users. A larger study replaces it."
                st.badge("Quick trial", icon=":material/bolt:", color="gray", help=text)
    # A non-breaking space keeps a number and its percent sign on one line.
    lines = [finding.figures.removeprefix(evidence.QUICK)]
    if finding.ranking is not None:
        lines.append(f"In ranking: {finding.ranking.figures}")
    figures.text("\n\n".join(lines).replace(" %", "\u00a0%"))
    with source.container(gap="xxsmall"):
        opened = st.button(
            escaped(report.name),
            icon=":material/science:",
            type="tertiary",
            key=f"{finding.claim.name} {finding.dataset}",
            help="Open this study",
        )
        st.caption(escaped(report.made, MAX_TEXT))
    return opened
