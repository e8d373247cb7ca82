"""The mark of comparisons that were measured elsewhere and added from a published archive."""

import streamlit as st

from dashboard.components.formatting import escaped
from dashboard.engine import Run

ICON = ":material/verified:"


def mark(run: Run) -> None:
    """Draw where a published run was measured; nothing for this workspace's own runs."""
    facts = run.published
    if facts is None:
        return
    st.badge("Published, read-only", icon=ICON, color="blue")
    models = " → ".join(escaped(model["name"], 40) for model in facts.get("models", ()))
    parts = [
        f"measured on {escaped(str(facts.get('device')), 60)}",
        f"on {escaped(str(facts.get('date'))[:10])}",
        f"with {models}",
    ]
    versions = facts.get("versions", {})
    if "puma_engine" in versions:
        parts.append(f"PUMA {escaped(versions['puma_engine'], 20)}")
    licences = {model.get("licence") for model in facts.get("models", ())} - {None}
    if licences:
        parts.append(f"model licence {escaped(', '.join(sorted(licences)), 60)}")
    st.caption(f"Published comparison, not computed in this workspace: {', '.join(parts)}.")
    if facts.get("command"):
        st.caption(f"Measured with: {escaped(str(facts['command']), 300)}")
