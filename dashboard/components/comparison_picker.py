"""Compare: choose a finished comparison, or request one of other methods or another baseline."""

from dataclasses import dataclass

import streamlit as st

from dashboard import engine
from dashboard.components import page_states, query_params, tables
from dashboard.components.compare_methods import score_columns
from dashboard.components.theme import rank
from dashboard.engine import Run, comparisons
from dashboard.engine.comparisons import DataSplit

REQUEST_PARAMS = ("place", "methods", "pin")
LAST_SHOWN = "compare-shown"


@dataclass(frozen=True)
class ComparisonRequest:
    """Methods to compare, as evaluation ids, one of them pinned as the baseline."""

    split: DataSplit
    methods: list[str]
    baselines: list[str]  # evaluations of methods without a language model, always compared too
    pin: str
    lacks_baselines: bool  # some method without a language model is not evaluated yet


def pick() -> Run | None:
    """Draw the controls; return the finished comparison to show, or None after saying why not."""
    runs = comparisons.own_first(engine.runs("comparison", status=None))
    splits = comparisons.splits()
    if not runs and not splits:
        page_states.empty(
            "Nothing to compare yet",
            "Methods appear here when they are evaluated. A migration launched on the page New migration is "
            "evaluated when it is finished; `puma evaluate RUN` evaluates any prompts.",
        )
        return None
    _follow_address(runs, splits)
    run = None
    if runs:
        run = query_params.choose_run(
            "Comparison",
            runs,
            "comparison",
            default=next((run.id for run in runs if run.status == "finished"), None),
        )
        st.session_state[LAST_SHOWN] = run.id
    title = "Compare other methods, or pin another baseline"
    with st.expander(title, icon=":material/tune:", expanded=run is None):
        request = _request(splits, run) if splits else None
    if request is not None:
        _offer(request, run)
    if run is None:
        if request is not None:
            metric = comparisons.PRIMARY_METRIC[request.split.task].upper()
            evaluated = comparisons.methods(request.split).set_index("evaluation")
            evaluated = evaluated.loc[[*request.methods, *request.baselines]]
            st.subheader("Evaluated so far", divider="gray")
            shown = evaluated[["label", "name", "value", "low", "high", "seconds"]]
            labels = ["Method", "Run", metric, "95 % from", "95 % to", "Time (s)"]
            tables.show(shown.set_axis(labels, axis=1), score_columns(metric))
        return None
    if run.status == "running":
        page_states.loading("This comparison is being computed.")
        return None
    if run.status != "finished":
        page_states.failed(f"This comparison is {run.status}.", run.error or "Its process ended.")
        st.markdown("Request it again with the methods above, or choose another comparison.")
        return None
    return run


def _follow_address(runs: list[Run], splits: list[DataSplit]) -> None:
    """Make the address consistent before the widgets are drawn.

    Choosing another comparison resets the requested methods. Requested methods whose comparison
    is finished lead to that comparison.
    """
    requested = query_params.read("comparison", [run.id for run in runs])
    if st.session_state.get(LAST_SHOWN) not in (None, requested):
        query_params.forget(*REQUEST_PARAMS)
        return
    shown = next((run for run in runs if run.id == requested), None)
    named = next((split for split in splits if split.id == st.query_params.get("place")), None)
    split = named or (comparisons.split_of(shown) if shown else None)
    if split is None:
        return
    evaluated = comparisons.methods(split)
    known = set(evaluated["evaluation"])
    members = comparisons.members(shown) if shown else []
    methods = query_params.read_many("methods", known) or members
    pin = query_params.read("pin", known) or (shown.inputs.get("reference") if shown else None)
    if not methods or pin is None or (shown is not None and _is_of(shown, methods, pin)):
        return
    baselines = evaluated.loc[evaluated["kind"] == "baseline", "evaluation"].tolist()
    compared = list(dict.fromkeys([*methods, *baselines]))
    run = comparisons.find(compared, pin) if pin in compared else None
    if run is not None and run.status == "finished" and not comparisons.lacks_baselines(evaluated):
        query_params.write("comparison", run.id)


def _is_of(run: Run, methods: list[str], pin: str) -> bool:
    """Say whether a comparison is of these methods, baselines aside, with this one pinned."""
    members, chosen = (
        {key for key in keys if not comparisons.is_baseline(engine.run(key))}
        for keys in (comparisons.members(run), methods)
    )
    return run.inputs.get("reference") == pin and members == chosen


def _request(splits: list[DataSplit], run: Run | None) -> ComparisonRequest | None:
    """Draw the widgets that choose methods and the pinned baseline."""
    shown = comparisons.split_of(run) if run is not None else None
    left, right = st.columns([2, 3])
    with left:
        chosen = query_params.choose(
            "Data set and split",
            [split.id for split in splits],
            "place",
            labels={split.id: split.name for split in splits},
            default=shown.id if shown else None,
            help="Only methods that were evaluated on the same rows can be compared.",
        )
    split = next(split for split in splits if split.id == chosen)
    evaluated = comparisons.methods(split)
    evaluated = evaluated.assign(rank=evaluated["kind"].map(rank)).sort_values("rank")
    labels = {row.evaluation: f"{row.label} · {row.name}" for row in evaluated.itertuples()}
    baselines = evaluated.loc[evaluated["kind"] == "baseline", "evaluation"].tolist()
    options = [key for key in evaluated["evaluation"] if key not in baselines]
    members = comparisons.members(run) if run is not None and split == shown else options
    methods = query_params.choose_many(
        "Methods", options, "methods", labels=labels, default=[m for m in members if m in options]
    )
    st.caption("Methods without a language model are always included.")
    if not methods:
        st.info("Choose at least one method.", icon=":material/checklist:")
        return None
    pinned = run.inputs.get("reference") if run is not None and split == shown else None
    retrained = evaluated.loc[evaluated["kind"] == "retrained", "evaluation"]
    with right:
        pin = query_params.choose(
            "Pinned as the baseline",
            [*methods, *baselines],
            "pin",
            labels=labels,
            default=pinned or next((key for key in retrained if key in methods), None),
            help="Differences are relative to it. A verdict needs full retraining as the baseline.",
        )
    return ComparisonRequest(split, methods, baselines, pin, comparisons.lacks_baselines(evaluated))


def _offer(request: ComparisonRequest, run: Run | None) -> None:
    """Show the job of a requested comparison, or a button that queues it; nothing if it is shown."""
    text, button = "The chosen methods and baseline are not compared yet.", "Compare them"
    if run is not None and _is_of(run, request.methods, request.pin):
        text, button = "A method without a language model is not in this comparison yet.", "Add it"
        complete = set(comparisons.members(run)) >= set(request.baselines)
        if (complete and not request.lacks_baselines) or run.status != "finished":
            return
    job = comparisons.pending(request.methods, request.pin)

    def watch(job_id: str) -> None:
        now = engine.job(job_id)
        if now.status not in ("queued", "running"):
            st.rerun()
        with st.container(border=True):
            state = "is queued" if now.status == "queued" else "is being computed"
            st.markdown(f":material/hourglass_top: The comparison {state}.")
            st.text(str(now.progress.get("stage") or ""))

    if job is not None and job.status in ("queued", "running"):
        page_states.live(watch, 1.0)(job.id)
    elif job is not None and job.status in ("failed", "cancelled", "interrupted"):
        page_states.failed("The comparison was not finished.", job.error or job.status)
        if page_states.action("Try again", icon=":material/replay:", key="retry-comparison"):
            engine.retry(job.id)
            st.rerun()
    else:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(text)
            if page_states.action(button, type="primary", icon=":material/play_arrow:"):
                comparisons.request(request.split, request.methods, request.pin)
                st.rerun()
