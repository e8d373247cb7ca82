"""Which comparison is shown, and asking for another: other methods, another pinned baseline."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from dashboard import engine
from dashboard.components import page_states, query_params
from dashboard.components.compare_methods import digits
from dashboard.components.theme import KINDS, rank
from dashboard.engine import Job, Run, comparisons
from dashboard.engine.comparisons import Place

BUILDER = ("place", "methods", "pin")
SHOWN = "compare-shown"


@dataclass(frozen=True)
class Wish:
    """The methods (evaluation ids) that somebody wants to see side by side, one pinned."""

    place: Place
    methods: list[str]
    baselines: list[str]
    pin: str
    lacks_baselines: bool

    @property
    def everything(self) -> list[str]:
        return [*self.methods, *self.baselines]


def pick() -> Run | None:
    """Draw the controls; return the finished comparison to show, or None with a state shown."""
    runs = engine.runs("comparison", status=None)
    places = comparisons.places()
    if not runs and not places:
        page_states.empty(
            "Nothing to compare yet",
            "Methods appear here when they are evaluated. A migration that is launched on Plan is "
            "evaluated when it is done; `puma evaluate RUN` evaluates any prompts.",
        )
        return None
    _follow_address(runs, places)
    run = _chosen(runs) if runs else None
    if run is not None:
        st.session_state[SHOWN] = run.id
    title = "Compare other methods, or pin another baseline"
    with st.expander(title, icon=":material/tune:", expanded=run is None):
        wish = _wish(places, run) if places else None
    if wish is not None:
        _answer(wish, run)
    if run is None or run.status != "finished":
        if run is not None:
            _unfinished(run)
        elif wish is not None:
            _alone(wish)
        return None
    return run


def _follow_address(runs: list[Run], places: list[Place]) -> None:
    """Before anything is drawn: a comparison chosen by itself resets the methods below it, and
    methods that are compared by now show their comparison."""
    given = query_params.read("comparison", [run.id for run in runs])
    if st.session_state.get(SHOWN) not in (None, given):
        query_params.forget(*BUILDER)
        return
    shown = next((run for run in runs if run.id == given), None)
    named = next((one for one in places if one.id == st.query_params.get("place")), None)
    place = named or (comparisons.place_of(shown) if shown else None)
    if place is None:
        return
    evaluated = comparisons.methods(place)
    known = set(evaluated["evaluation"])
    methods = query_params.read_many("methods", known) or (
        comparisons.members(shown) if shown else []
    )
    pin = query_params.read("pin", known) or (shown.inputs.get("reference") if shown else None)
    if not methods or pin is None or (shown is not None and _answers(shown, methods, pin)):
        return
    simple = evaluated.loc[evaluated["kind"] == "baseline", "evaluation"].tolist()
    everything = list(dict.fromkeys([*methods, *simple]))
    found = comparisons.find(everything, pin) if pin in everything else None
    if (
        found is not None
        and found.status == "finished"
        and not comparisons.lacks_baselines(evaluated)
    ):
        query_params.write("comparison", found.id)


def _answers(run: Run, methods: list[str], pin: str) -> bool:
    """Say whether a comparison is of these methods, baselines aside, with this one pinned."""
    own = {one for one in comparisons.members(run) if not comparisons.is_baseline(engine.run(one))}
    chosen = {one for one in methods if not comparisons.is_baseline(engine.run(one))}
    return run.inputs.get("reference") == pin and own == chosen


def _chosen(runs: list[Run]) -> Run:
    names = {run.id: f"{run.name} ({run.id[:6]})" for run in runs}
    for run in runs:
        if run.status != "finished":
            names[run.id] += f", {run.status}"
    default = next((run.id for run in runs if run.status == "finished"), None)
    options = list(names)
    chosen = query_params.choose("Comparison", options, "comparison", labels=names, default=default)
    return next(run for run in runs if run.id == chosen)


def _wish(places: list[Place], run: Run | None) -> Wish | None:
    """The controls that choose methods and the pinned baseline."""
    own = comparisons.place_of(run) if run is not None else None
    left, right = st.columns([2, 3])
    with left:
        chosen = query_params.choose(
            "Data set and split",
            [place.id for place in places],
            "place",
            labels={place.id: place.name for place in places},
            default=own.id if own else None,
            help="Only methods that were evaluated on the same rows can be compared.",
        )
    place = next(place for place in places if place.id == chosen)
    evaluated = comparisons.methods(place)
    evaluated = evaluated.assign(place=evaluated["kind"].map(rank)).sort_values("place")
    labels = {row.evaluation: _label(row) for row in evaluated.itertuples()}
    simple = evaluated.loc[evaluated["kind"] == "baseline", "evaluation"].tolist()
    options = [one for one in evaluated["evaluation"] if one not in simple]
    members = comparisons.members(run) if run is not None and place == own else options
    methods = query_params.choose_many(
        "Methods", options, "methods", labels=labels, default=[m for m in members if m in options]
    )
    st.caption("Methods that need no language model are always shown beside them.")
    if not methods:
        st.info("Choose at least one method.", icon=":material/checklist:")
        return None
    pinned = run.inputs.get("reference") if run is not None and place == own else None
    retrained = evaluated.loc[evaluated["kind"] == "retrained", "evaluation"]
    again = next((one for one in retrained if one in methods), None)
    with right:
        pin = query_params.choose(
            "Pinned as the baseline",
            [*methods, *simple],
            "pin",
            labels=labels,
            default=pinned or again,
            help="Differences are taken from it. A verdict needs full retraining here.",
        )
    return Wish(place, methods, simple, pin, comparisons.lacks_baselines(evaluated))


def _label(row: object) -> str:
    kind = KINDS[row.kind].label  # type: ignore[attr-defined]
    name, label = row.name, row.label  # type: ignore[attr-defined]
    return f"{label} · {name}" if label != kind else f"{kind} · {name}"


def _answer(wish: Wish, run: Run | None) -> None:
    """Show the wished comparison if it exists, what its job does, or a button to ask for it."""
    said, button = "The chosen methods and baseline are not compared yet.", "Compare them"
    if run is not None and _answers(run, wish.methods, wish.pin):
        said = "A method without a language model is not in this comparison yet."
        button = "Add it"
        whole = set(comparisons.members(run)) >= set(wish.baselines) and not wish.lacks_baselines
        if whole or run.status != "finished":
            return
    job = comparisons.pending(wish.methods, wish.pin)
    if job is not None and job.status in ("queued", "running"):
        page_states.live(_watch, 1.0)(job.id)
    elif job is not None and job.status in ("failed", "cancelled", "interrupted"):
        _stopped(job)
    else:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(said)
            if st.button(button, type="primary", icon=":material/play_arrow:"):
                comparisons.ask(wish.place, wish.methods, wish.pin)
                st.rerun()


def _watch(job_id: str) -> None:
    """What the job of a comparison does, until it ends."""
    job = engine.job(job_id)
    if job.status not in ("queued", "running"):
        st.rerun()
    with st.container(border=True):
        waits = "waits for its turn" if job.status == "queued" else "is being computed"
        st.markdown(f":material/hourglass_top: The comparison {waits}.")
        st.text(str(job.progress.get("stage") or ""))


def _stopped(job: Job) -> None:
    page_states.failed("The comparison was not finished.", job.error or job.status)
    if st.button("Try again", icon=":material/replay:", key="retry-comparison"):
        comparisons.retry(job)
        st.rerun()


def _unfinished(run: Run) -> None:
    if run.status == "running":
        page_states.loading("This comparison is being computed.")
        return
    page_states.failed(f"This comparison is {run.status}.", run.error or "Its process ended.")
    st.markdown("Ask for it again with the methods above, or choose another one.")


def _alone(wish: Wish) -> None:
    """What is known of the chosen methods before anything was compared."""
    metric = comparisons.PRIMARY_METRIC[wish.place.task]
    table = comparisons.methods(wish.place).set_index("evaluation").loc[wish.everything]
    st.subheader("Evaluated so far", divider="gray")
    shown = table[["label", "name", "value", "low", "high", "seconds"]].reset_index(drop=True)
    shown.columns = ["Method", "Run", metric.upper(), "95 % from", "95 % to", "Seconds"]
    st.dataframe(shown, hide_index=True, column_config=digits(metric.upper()))
