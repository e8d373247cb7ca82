"""The Ray cluster that jobs run on: its nodes, their GPUs, and which job runs where."""

import pandas as pd
import streamlit as st

from dashboard import engine
from dashboard.components import formatting, page_states, tables
from dashboard.components.formatting import escaped, short
from dashboard.engine import cluster

LOOKING_SECONDS = 2.0
SECONDS = 15.0


def show() -> None:
    """Show the cluster that is set, and keep that up to date; nothing without one."""
    with page_states.caught("The cluster cannot be shown."):
        shown = cluster.current_cluster() if engine.has_workspace() else None
        if shown is not None:
            every = LOOKING_SECONDS if shown.state.is_refreshing else SECONDS
            page_states.live(_draw, every)(shown.state.is_refreshing)


def _draw(was_refreshing: bool) -> None:
    shown = cluster.current_cluster()
    if shown is None or shown.state.is_refreshing != was_refreshing:
        st.rerun()
    state, titles = shown.state, cluster.jobs_by_node()
    where = "Jobs run on the Ray cluster" if shown.serves else "There is a Ray cluster"
    parts = [f"{where} at {escaped(shown.address, 100)}"]
    if state.nodes:
        nodes = "1 node" if len(state.nodes) == 1 else f"{len(state.nodes):,} nodes"
        gpus = "no GPU" if not state.gpus else f"{state.gpus:,} GPU{'s' * (state.gpus > 1)}"
        parts.append(f"{nodes}, {state.cpus:,} CPU{'s' * (state.cpus > 1)}, {gpus}")
    elif state.is_refreshing:
        parts.append("looking at its nodes")
    elif state.problem is None:
        parts.append("it has no node that computes")
    line = " · ".join(parts)
    if not state.nodes:
        st.caption(f":material/hub: {line}")
    else:
        with st.expander(line, icon=":material/hub:"):
            st.caption(f"Seen {formatting.ago(state.seen)}.")
            rows = [
                {
                    "Node": node.name,
                    "CPUs": node.cpus,
                    "GPUs": node.gpus,
                    "Kind of GPU": node.gpu or "",
                    "Runs now": short("; ".join(titles.get(node.name, [])), 200),
                }
                for node in state.nodes
            ]
            tables.show(pd.DataFrame(rows), height="content", alt="Nodes of the Ray cluster")
    if state.problem is not None:
        st.text(short(state.problem, 300))
    if not shown.serves:
        st.caption(
            "Jobs run on this machine. `puma worker --on ray` lets the cluster compute them."
        )
