"""People: what a method does to whom, on three maps, in a list of the most affected, and one by one."""

from dataclasses import replace

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import engine, pages
from dashboard.components import (
    job_cards,
    map_selection,
    page_states,
    people_affected,
    people_maps,
    people_views,
    person_drawer,
    published,
    query_params,
    selection_preview,
)
from dashboard.components.formatting import escaped, mid_sentence
from dashboard.components.glossary import show_glossary, term
from dashboard.components.map_selection import MapSelection
from dashboard.components.people_maps import Highlights
from dashboard.components.people_views import View
from dashboard.engine import people, user_details, user_maps
from dashboard.engine.people import Subject
from dashboard.engine.user_maps import UserMap

MAX_MATCHES = 20
OLD_VIEWS = ("density", "sample")  # of an earlier version, under the name "view"


@page_states.guarded
def page() -> None:
    """Draw the page below its title."""
    known = people.labels()
    if not known:
        page_states.empty(
            "No people yet",
            "People appear here when prompts are fitted or imported. Maps show them before and after "
            "a migration.",
            icon=":material/group_off:",
        )
        with st.container(horizontal=True, horizontal_alignment="center"):
            pages.link("models", label="Fit prompts")
            pages.link("plan", label="Start a migration")
        return
    old_map = _renew_address()
    notes = st.container()
    top = st.container(horizontal=True, vertical_alignment="bottom", key="people-method")
    bar = st.container(horizontal=True, vertical_alignment="bottom", key="people-bar")
    with top:
        subject = _choose_method(known)
        _introduce(subject, known)
    with notes:
        _warn(subject)
    with bar:
        name = people_views.chosen_view(subject, old_map)
        dense = _is_dense(subject, name)
    view, problem = _load(subject, name, dense)
    with bar:
        colour = _choose_colour(subject, dense)
        if view is not None:
            st.segmented_control(
                "Mouse",
                list(people_maps.DRAG_MODES),
                format_func=people_maps.DRAG_MODES.__getitem__,
                default="pan",
                key="mouse",
                width=130,
                help="Open: a click on a dot opens the person. Select: draw around people on one "
                "map to find them on the others.",
            )
        _search(subject)
        if view is not None:
            with st.popover("", icon=":material/info:", help="What this map means"):
                people_maps.trust(subject, view)
    _show(subject, known, view, problem, name, colour)
    terms = ("soft prompt", "anchor items", "cluster", "variance", "strategy", "budget")
    show_glossary(*terms, "gain", "regress")


def _renew_address() -> str | None:
    """Rename what an address of an earlier version says; return the map that it meant, if any."""
    view = st.query_params.get("view")
    if view in OLD_VIEWS:
        query_params.write("drawn", view)
        query_params.write("view", None)
    migration = st.query_params.get("migration")
    if migration is None:
        return None
    query_params.write("migration", None)
    if "method" not in st.query_params:
        query_params.write("method", migration)
    maps = (run for run in engine.runs("projection") if run.inputs["migrated"] == migration)
    return next((str(run.summary["method"]) for run in maps), None)


def _choose_method(known: dict[str, str]) -> Subject:
    """Draw the widgets of the method that the page is about, and of its source if it has several."""
    requested = st.query_params.get("method")
    if requested is not None and requested not in known:
        meant = people.prompts_of(requested)
        if meant in known:
            query_params.write("method", meant)
    comparison = st.query_params.get("comparison")
    dataset = st.query_params.get("dataset")
    kinds = {run.id: run.kind for kind in ("comparison", "dataset") for run in engine.runs(kind)}
    if comparison is not None and kinds.get(comparison) == "dataset":
        comparison, dataset = None, comparison
    if comparison is not None and comparison not in kinds:
        st.warning(
            "The address names an unknown value for “Comparison”; it is ignored.",
            icon=":material/link_off:",
        )
        comparison = None
    methods = query_params.read_many("methods", lambda _text: True)
    if not methods and comparison is not None:
        methods = people.members(comparison)
    chosen = query_params.choose(
        "Method",
        list(known),
        "method",
        labels=known,
        default=people.default(known, dataset, methods),
        help=term("migration"),
        width=560,
    )
    run = engine.run(chosen)
    sources = people.sources_of(run)
    source = sources[0] if sources else None
    if len(sources) > 1:
        source = query_params.choose_run(
            "Prompts of the old model", sources, "source", help=term("source prompts"), width=220
        )
    return people.subject(run, known[chosen], source, comparison)


def _introduce(subject: Subject, known: dict[str, str]) -> None:
    """Say in one line what is looked at."""
    data = engine.run(subject.dataset)
    users = data.summary.get("users", subject.run.summary.get("users", 0))
    against = ""
    if subject.reference and subject.reference != subject.evaluation:
        other = mid_sentence(people.brief(people.name_of(subject.reference, known)))
        against = f", against {other}"
    st.text(f"What it does to {users:,} users of {data.name}{against}.", width="stretch")


def _warn(subject: Subject) -> None:
    """Say what is special about the method: published, or not the newest of its kind."""
    published.mark(subject.comparison or subject.run)
    if "source_0" in subject.run.inputs and user_maps.newer_migration(subject.run):
        page_states.stale("A newer migration of these prompts to the same model is in the list.")


def _is_dense(subject: Subject, name: str) -> bool:
    """Say whether all users are to be counted in cells; draw the widget if there is a choice."""
    run = people.projection(subject, name) if name != "behaviour" else None
    if run is None or not run.summary.get("placed"):
        return False
    return query_params.segment("Show", people_views.DRAWN, "drawn") == "density"


def _load(subject: Subject, name: str, dense: bool) -> tuple[View | None, engine.PumaError | None]:
    try:
        return people_views.load(subject, name, all_users=dense), None
    except engine.PumaError as error:
        return None, error


def _choose_colour(subject: Subject, dense: bool) -> str:
    if dense:
        cells = people_maps.CELL_COLOURS
        return query_params.choose("Colour by", list(cells), "shade", labels=cells, width=150)
    colours = dict(people_views.COLOURS)
    if subject.task == "click":
        colours["mean"] = "Share clicked"
    return query_params.choose("Colour by", list(colours), "colour", labels=colours, width=150)


def _search(subject: Subject) -> None:
    """Draw the search for a person. A complete id, or the only match, opens the person."""

    def find() -> None:
        text = str(st.session_state["find-person"]).strip()[: query_params.MAX_LENGTH]
        matches = people.find(subject.dataset, text, 2) if text else []
        if text in matches or len(matches) == 1:
            _open(text if text in matches else matches[0])
            st.session_state["find-person"] = ""

    st.text_input(
        "Find a person",
        key="find-person",
        placeholder="Beginning of an id",
        icon=":material/search:",
        max_chars=query_params.MAX_LENGTH,
        on_change=find,
        width=150,
    )


def _matches(subject: Subject) -> None:
    """Offer the users whose ids begin with the text of the search."""
    text = str(st.session_state.get("find-person", "")).strip()[: query_params.MAX_LENGTH]
    if not text:
        return
    matches = people.find(subject.dataset, text, MAX_MATCHES)
    if not matches:
        st.caption(f"No user id begins with “{escaped(text, 30)}”.")
        return
    st.pills(
        f"Ids that begin with “{escaped(text, 30)}”",
        matches,
        format_func=escaped,
        key="found-person",
        on_change=lambda: _open(st.session_state["found-person"]),
    )


def _open(user: str | None) -> None:
    """Write a person into the address, so that the drawer opens."""
    if user is not None:
        query_params.write("user", user)
        st.session_state[people_maps.OPENED] = people_maps.opened() + 1
        st.session_state.pop("found-person", None)


def _show(
    subject: Subject,
    known: dict[str, str],
    view: View | None,
    problem: engine.PumaError | None,
    name: str,
    colour: str,
) -> None:
    """Draw the maps, the most affected beside them, and what is selected."""
    if view is not None:
        _open(people_maps.read_events(view))
    user = _user(subject)
    _matches(subject)
    selection = MapSelection() if view is None else people_views.selection(subject, view)
    rows = np.empty(0, dtype=np.int64)
    if view is not None:
        rows = people_views.selected_rows(subject, view, selection)
    # page.css keeps the place of the maps, which arrive after what is below them.
    place = st.container() if view is None else st.container(key="people-maps")
    maps, side = place.columns([2, 1], gap="medium")
    trainers = st.container()
    trained = _trainers(subject, view, trainers)
    with maps:
        if problem is not None:
            _damaged(subject, name, problem)
        elif view is None:
            _no_map(subject, name)
        else:
            _maps(subject, view, Highlights(colour, trained, selection, rows), user)
    clicked = None
    with side, page_states.caught("Who is most affected cannot be shown."):
        clicked = people_affected.show(subject, known, view, rows)
    if clicked is not None:
        _open(clicked)
        st.rerun()
    if user is not None:
        person_drawer.show(subject, known, user)


def _user(subject: Subject) -> str | None:
    """Return the person of the address; warn about one whom the data set does not hold."""
    requested = st.query_params.get("user")
    if requested is None:
        return None
    if len(requested) <= query_params.MAX_LENGTH and people.is_user(subject.dataset, requested):
        return requested
    st.warning(
        "The address names an unknown value for “User”; it is ignored.", icon=":material/link_off:"
    )
    return None


def _maps(
    subject: Subject,
    view: View,
    highlights: Highlights,
    user: str | None,
) -> None:
    selection, rows = highlights.selection, highlights.rows
    st.markdown(f"## {escaped(people_maps.headline(subject, view), 400)}")
    notes = people_maps.notes(subject, view)
    if notes:
        st.markdown(f":material/info: {escaped(notes, 600)}")
    if view.name == "behaviour" and "anchors" not in view.facts:
        _offer_anchors(subject)
    if not selection:
        opened = MapSelection() if user is None else MapSelection(users=(user,))
        lassoed = map_selection.selected_rows(opened, view.frame, view.points)
        highlights = replace(highlights, selection=opened, rows=lassoed)
    people_maps.charts(subject, view, highlights)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        people_maps.selection_bar(subject, selection)
    if selection:
        clicked = people_maps.selected_table(subject, view, highlights.trained, selection, rows)
        if clicked is not None:
            _open(clicked)
            st.rerun()


def _offer_anchors(subject: Subject) -> None:
    """Say that people are shown on different titles, and how to show them on the same ones."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            ":material/info: Each person's mean and spread are over the titles of their own held-out "
            "records, which differ between people."
        )
        lacking = people.prompts_lacking_anchors(subject)
        jobs = [user_maps.latest_job("predict_anchors", prompts=run.id) for run in lacking]
        active = [job for job in jobs if job is not None and job.status in job_cards.ACTIVE]
        clicked = False
        if lacking and not active:
            clicked = page_states.action(
                "Predict the same titles for everybody",
                icon=":material/grid_on:",
                help=f"{term('anchor items')} A job asks each model; `puma anchors` does the same.",
            )
    for job in jobs:
        if job is not None and job.status == "failed":
            page_states.failed("The same titles could not be predicted.", job.error)
    if clicked:
        with page_states.caught("The same titles cannot be predicted here."):
            people.predict_anchors(lacking)
            st.rerun()
    if active:
        job_cards.watch_one(active[-1])


def _no_map(subject: Subject, name: str) -> None:
    """Say why a view has nothing to show, and how to get it."""
    if name == "behaviour":
        if subject.evaluation is None:
            text = "Behaviour is drawn from predictions. Evaluate these prompts to see it."
        else:
            text = (
                f"The predictions are gone, there are more than {people.MAX_ROWS:,}, or each person "
                "has only one. Choose another view."
            )
        page_states.empty("No behaviour to show", text, icon=":material/scatter_plot:")
        return
    if subject.source is None:
        page_states.empty(
            "No migration yet",
            "A map shows users before and after a migration. Launch a migration first."
            if name == "umap"
            else "These prompts are too many to be drawn here.",
            icon=":material/scatter_plot:",
        )
        pages.link("plan", label="Start a migration")
        return
    if not all(user_details.has_prompts(run.id) for run in (subject.source, subject.run)):
        page_states.empty(
            "No prompts here",
            "The archive of this published comparison holds no prompts, so they cannot be drawn.",
            icon=":material/scatter_plot:",
        )
        return
    arguments = {"source": subject.source.id, "migrated": subject.run.id}
    arguments |= {"method": name} if name == "pca" else {}
    job = user_maps.latest_job("project", **arguments)
    if job is not None and job.status in ("queued", "running", "interrupted"):
        page_states.loading("A job makes the map; it continues when you close the page.")
        job_cards.watch_one(job)
        return
    if job is not None and job.status == "failed":
        page_states.failed("The map could not be made.", job.error)
        if page_states.action("Try again", type="primary", icon=":material/refresh:"):
            engine.retry(job.id)
            st.rerun()
        return
    page_states.empty(
        "No map of these prompts yet",
        "A job projects the prompts onto the plane, before and after the migration. It runs once, "
        "in the background. Behaviour and PCA can be seen meanwhile."
        if name == "umap"
        else "The prompts are too many to be projected on this page, so a job does it.",
        icon=":material/scatter_plot:",
    )
    if page_states.action("Make the map", type="primary", icon=":material/draw:"):
        user_maps.project(subject.source, subject.run, name)
        st.rerun()


def _damaged(subject: Subject, name: str, error: engine.PumaError) -> None:
    """Show that a view cannot be read, and offer to make its map again."""
    run = None if name == "behaviour" else people.projection(subject, name)
    if run is None or subject.source is None:
        page_states.failed("This view cannot be shown.", error)
        return
    page_states.failed("This map is damaged.", error)
    st.caption("A map is made from the prompts alone, so nothing is lost by making it again.")
    if page_states.action("Make it again", type="primary", icon=":material/refresh:"):
        engine.workspace().delete(run.id)
        user_maps.project(subject.source, subject.run, name)
        st.rerun()


def _trainers(subject: Subject, view: View | None, place: DeltaGenerator) -> np.ndarray | None:
    """Draw who trains the adapter, below the maps; return whether each user of the view does."""
    if subject.source is None or view is None:
        return None
    user_map = None
    with place, page_states.caught("Who trains the adapter cannot be shown."):
        st.header("Who trains it", divider="gray")
        run = people.projection(subject)
        if run is not None:
            frame = user_maps.users(engine.root(), run.id)
            user_map = UserMap(subject.source, subject.run, run, frame)
        users = int(subject.run.summary.get("users", len(view.frame)))
        left, right = st.columns([3, 2])
        with left:
            strategy = selection_preview.choose_strategy()
        with right:
            budget = selection_preview.choose_budget(subject.run, users, strategy)

        def selected(frame: View | UserMap) -> np.ndarray | None:
            return selection_preview.selected_users(
                frame.frame, subject.run, user_map, strategy, budget
            )

        if user_map is not None:
            selection_preview.show(user_map, selected(user_map), strategy, budget)
        else:
            st.caption("How the users are spread over clusters is shown when a map is made.")
        return selected(view)
    return None
