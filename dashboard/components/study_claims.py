"""The paper's claims, each with its verdict on every data set and the report behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import pages
from dashboard.components import page_states, verdicts
from dashboard.components.formatting import escaped
from dashboard.engine import studies

LONGEST = 1000
TRIAL = "On few users; it counts only until a larger study is there."


def show(reports: Sequence[studies.Evidence], address: Mapping[str, str], place: str) -> None:
    """Draw the claims as these reports judge them.

    address: what leads to one study of the same reports. place: the name under which the
    address holds which study that is.
    """
    found = studies.findings(reports)
    if not found:
        answering = dict.fromkeys(claim.study for claim in studies.CLAIMS)
        page_states.empty(
            "No study here answers a claim",
            f"The claims are answered by the studies {', '.join(answering)}. "
            "`puma study table2 --quick` runs the first on few users.",
        )
        return
    with st.container(horizontal=True, gap="small"):
        for verdict, count in sorted(studies.tally(found).items(), key=_order):
            verdicts.badge(verdict, count)
    st.caption(studies.INTERVALS)
    for claim, own in studies.grouped(found).items():
        with st.container(border=True, gap="medium"):
            st.markdown(f"**{escaped(claim.text, LONGEST)}**", help=claim.rule)
            for one in own:
                if one.evidence is not None:
                    _finding(one, one.evidence, address, place)
            _without(claim.study, [one.dataset for one in own if one.evidence is None])


def _order(counted: tuple[str, int]) -> int:
    return list(verdicts.CLAIMED).index(counted[0])


def _finding(
    found: studies.Finding, evidence: studies.Evidence, address: Mapping[str, str], place: str
) -> None:
    verdict, figures, source = st.columns([4, 8, 6], gap="small")
    with verdict.container(gap="xsmall"):
        st.text(found.dataset)
        with st.container(horizontal=True, gap="xsmall"):
            verdicts.badge(found.verdict)
            if evidence.quick:
                st.badge("Quick trial", icon=":material/bolt:", color="gray", help=TRIAL)
    figures.text(studies.figures(found))
    with source.container(gap="xxsmall"):
        opened = st.button(
            escaped(evidence.name),
            icon=":material/science:",
            type="tertiary",
            key=f"{found.claim.name} {found.dataset}",
            help="Open this study",
        )
        st.caption(escaped(evidence.made, LONGEST))
    if opened:
        pages.go("studies", **address, **{place: evidence.name, "dataset": found.dataset})


def _without(study: str, datasets: Sequence[str]) -> None:
    if datasets:
        st.caption(
            f":material/block: No evidence on {escaped(', '.join(datasets), LONGEST)}: it takes a report of "
            f"the study `{study}`."
        )
