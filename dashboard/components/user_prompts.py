"""Person, parts "Neighbours", "What if" and "Lineage": what one user's prompts say."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.column_config import LinkColumn, NumberColumn

from dashboard import engine, pages
from dashboard.components import figures, glossary, page_states, query_params, tables
from dashboard.components.formatting import escaped, percent, plotly_text, short
from dashboard.components.theme import KINDS, NEUTRAL, marker, rank
from dashboard.engine import user_details
from dashboard.engine.user_details import Method, Prediction, Run, UserContext

MAX_NEIGHBOURS = 10
TITLE_KEY = "what-if-title"
# The page that shows a kind of run, and the query parameter of its id.
PAGE_OF = {
    "dataset": ("data", "dataset"),
    "backbone": ("models", "target"),
    "comparison": ("compare", "comparison"),
}
MAIN_KINDS = ("source", "migrated", "retrained")
KIND_NAMES = {
    "dataset": "Data set",
    "backbone": "Model",
    "prompts": "Prompts",
    "selection": "Selection of users",
    "migration": "Migration",
}


def _prompts(
    context: UserContext, looked_at: str
) -> tuple[dict[str, Method], dict[str, str], dict[str, str]]:
    """Return the methods with prompts in the order of kinds, and their labels, by prompt table.

    looked_at: the prompt table that the page is about. The third value is the first prompt table of
    each kind, or the one that is looked at if it is of that kind.
    """
    ordered = sorted(context.with_prompts(), key=lambda method: rank(method.kind))
    methods = {str(method.prompts): method for method in ordered}
    labels = {key: method.label for key, method in methods.items()}
    first = {methods[key].kind: key for key in reversed(methods)}
    if looked_at in methods:
        first[methods[looked_at].kind] = looked_at
    return methods, labels, first


def neighbours(context: UserContext, user: str, looked_at: str) -> None:
    """Draw the users with the most similar prompts in two prompt tables."""
    methods, labels, kinds = _prompts(context, looked_at)
    if len(methods) < 2:
        page_states.empty(
            "Only one prompt table",
            "Neighbours are compared between two prompt tables; migrate these prompts or fit these "
            "users on another model.",
        )
        return
    left, right = st.columns(2)
    with left:
        default = kinds.get("source", next(iter(methods)))
        key = query_params.choose(
            "First prompts", list(methods), "space", labels=labels, default=default
        )
        first = methods[key]
    with right:
        rest = [other for other in methods if other != key]
        default = kinds.get("migrated") or kinds.get("retrained") or list(methods)[-1]
        default = looked_at if looked_at in rest else default
        second = methods[
            query_params.choose("Second prompts", rest, "beside", labels=labels, default=default)
        ]
    frame = user_details.nearest_users(
        engine.root(), str(first.prompts), str(second.prompts), user, MAX_NEIGHBOURS
    )
    if frame.empty:
        page_states.empty("No neighbours", "No other user has a prompt in both tables.")
        return
    near_first = frame["first_place"] <= MAX_NEIGHBOURS
    near_second = frame["second_place"] <= MAX_NEIGHBOURS
    st.markdown(
        f"**{int((near_first & near_second).sum())} of the {int(near_first.sum())} nearest users "
        f"are also among the nearest {MAX_NEIGHBOURS} in the second prompts.**"
    )
    st.caption(
        "Similarity is the cosine between prompts after subtracting the mean prompt: 1 is the same "
        "direction, 0 is unrelated. The rank is among all users; 1 is the nearest."
    )
    figures.show(
        neighbours_figure(frame, near_first, near_second, first, second),
        frame,
        "user-neighbours",
        title="Neighbours of the user: those at the upper right are near in both",
        x=f"Cosine in {short(first.label, 60)}",
        y=f"Cosine in {short(second.label, 60)}",
    )
    target = {"comparison": context.id, "method": looked_at}
    addresses = [pages.url("users", **target, user=other) for other in frame["user_id"]]
    table = pd.DataFrame(
        {
            "Row": range(1, len(frame) + 1),
            "User": frame["user_id"],
            "first": frame["first_cosine"],
            "first rank": frame["first_place"],
            "second": frame["second_cosine"],
            "second rank": frame["second_place"],
            "Open": addresses,
        }
    )
    columns = {"Open": LinkColumn("", display_text="Open")}
    for side, label in (("first", short(first.label, 30)), ("second", short(second.label, 30))):
        columns[side] = NumberColumn(f"Cosine, {label}", format="%.3f")
        columns[f"{side} rank"] = NumberColumn(f"Rank, {label}", format="localized")
    tables.show(table, columns)


def neighbours_figure(
    frame: pd.DataFrame,
    near_first: pd.Series,
    near_second: pd.Series,
    first: Method,
    second: Method,
) -> go.Figure:
    """Draw the cosine of each neighbour in both prompt tables, coloured by where it is near."""
    figure = go.Figure()
    look = marker(second.kind)
    if second.kind == first.kind:
        look |= {"symbol": f"{look['symbol']}-open"}
    both = {"color": NEUTRAL, "symbol": "star", "size": 14}
    groups = (
        ("near in both", near_first & near_second, both),
        ("near in the first only", near_first & ~near_second, marker(first.kind)),
        ("near in the second only", near_second & ~near_first, look),
    )
    for name, rows, look in groups:
        figure.add_scatter(
            x=frame.loc[rows, "first_cosine"].astype("float32"),
            y=frame.loc[rows, "second_cosine"].astype("float32"),
            mode="markers",
            name=name,
            marker={"size": 11} | look,
            customdata=frame.index[rows].to_numpy()[:, None] + 1,
            hovertemplate="row %{customdata[0]} of the table: %{x:.2f} and %{y:.2f}<extra></extra>",
        )
    return figure


def what_if(context: UserContext, user: str, looked_at: str) -> None:
    """Draw a form for a title, and the predictions of chosen prompts for it."""
    if engine.read_only():
        # The process that predicts needs a socket and a log in the workspace.
        st.caption("Predictions for other titles need a workspace that can be written.")
        return
    methods, labels, kinds = _prompts(context, looked_at)
    st.markdown("### Predict this user's outcome for any title")
    # A form has its value only when it is sent, so the address is read once and written then.
    if TITLE_KEY not in st.session_state:
        st.session_state[TITLE_KEY] = query_params.read("title", lambda _: True) or ""
    with st.form("what-if", border=False):
        left, right = st.columns([6, 1], vertical_alignment="bottom")
        title = left.text_input(
            "Title",
            key=TITLE_KEY,
            max_chars=user_details.MAX_TITLE_LENGTH,
            placeholder="The Hobbit by J.R.R. Tolkien",
            help="Any text, also of an item that is not in the data set. Titles in the form of the "
            "data set's titles work best.",
        )
        right.form_submit_button("Ask", type="primary", icon=":material/send:", width="stretch")
    query_params.write("title", title if 0 < len(title) <= query_params.MAX_LENGTH else None)
    defaults = [kinds[kind] for kind in MAIN_KINDS if kind in kinds]
    if looked_at in methods and looked_at not in defaults:
        defaults.append(looked_at)
    chosen = query_params.choose_many(
        "Prompts",
        list(methods),
        "prompts",
        labels=labels,
        default=defaults or list(methods)[:1],
        max_selections=user_details.MAX_WHAT_IF_RUNS,
    )[: user_details.MAX_WHAT_IF_RUNS]
    with page_states.caught("No prediction for this title."):
        if not title.strip():
            user_details.warm(chosen)
            st.caption("The models are being loaded while you type.")
        elif not chosen:
            st.info("Choose at least one prompt table.", icon=":material/touch_app:")
        else:
            _predictions([methods[key] for key in chosen], user, title)


def _predictions(methods: list[Method], user: str, title: str) -> None:
    """Draw each method's prediction, and why some failed; raise if all of them fail."""
    predictions: list[tuple[Method, Prediction]] = []
    failures: list[tuple[Method, engine.PumaError]] = []
    with st.spinner("Predicting; the first prediction loads the models…", show_time=True):
        for method in methods:
            try:
                predictions.append((method, user_details.ask(str(method.prompts), user, title)))
            except engine.PumaError as error:
                failures.append((method, error))
    if not predictions:
        raise failures[0][1]
    for method, reason in failures:
        page_states.failed(f"No prediction from {escaped(method.label)}.", reason)
    for column, (method, item) in zip(st.columns(len(predictions)), predictions, strict=True):
        rating = item.task == "rating"
        column.metric(
            escaped(method.label),
            f"{item.value:.2f} ★" if rating else percent(item.value),
            border=True,
            help="Predicted rating, 1 to 5 stars." if rating else "Probability of a click.",
        )
    st.caption("Text that the models read:")
    st.text(predictions[0][1].title)
    if any(item.cut for _, item in predictions):
        st.caption("The title is longer than the models' token limit; its end was cut off.")
    figures.show(
        answers_figure(predictions),
        answers_table(predictions),
        "user-what-if",
        title="Probability of each answer",
        x="Answer",
        y="Probability",
        height=320,
    )
    seconds = sum(item.seconds for _, item in predictions)
    st.caption(
        f"Predicted in {seconds:.2f} s by {len(predictions)} models. The probabilities are the "
        "language model's own among the allowed answers. The prediction is from the head trained on "
        "top of them. A single prediction has no interval."
    )


def answers_figure(predictions: Sequence[tuple[Method, Prediction]]) -> go.Figure:
    """Draw the probability of each answer, side by side for each method."""
    figure = go.Figure()
    patterns = ("", "/", "x", ".", "+")
    kinds: Counter[str] = Counter()
    for method, item in predictions:
        figure.add_bar(
            x=[f"{name} ★" if item.task == "rating" else name for name in item.answers],
            y=[100 * probability for probability in item.answers.values()],
            name=plotly_text(method.label),
            marker={
                "color": KINDS[method.kind].colour,
                "pattern": {"shape": patterns[kinds[method.kind] % len(patterns)]},
            },
            hovertemplate=f"{plotly_text(method.label)}<br>%{{x}}: %{{y:.1f}} %<extra></extra>",
        )
        kinds[method.kind] += 1
    figure.update_layout(barmode="group")
    figure.update_yaxes(ticksuffix=" %", rangemode="tozero")
    return figure


def answers_table(predictions: Sequence[tuple[Method, Prediction]]) -> pd.DataFrame:
    """Return one row per method: its prediction and the probability of each answer."""
    rows = []
    for method, item in predictions:
        name = "Predicted rating" if item.task == "rating" else "Probability of a click"
        shares = {f"P({answer})": share for answer, share in item.answers.items()}
        rows.append({"Method": method.label, name: item.value, **shares})
    return pd.DataFrame(rows)


def lineage(context: UserContext, user: str, looked_at: str) -> None:
    """List the runs that the user's prompt came from, the first step first."""
    methods, labels, _ = _prompts(context, looked_at)
    chosen = query_params.choose(
        "Prompts",
        list(methods),
        "run",
        labels=labels,
        default=looked_at,
        help=glossary.term("lineage"),
    )
    steps = user_details.lineage(chosen)
    st.markdown(f"### {len(steps)} steps from the data to this user's prompt")
    for number, run in enumerate(steps, start=1):
        _step(number, run, user)


def _step(number: int, run: Run, user: str) -> None:
    parts = [f"{run.seconds:,.1f} s on {run.device}" if run.seconds is not None else ""]
    if run.cost.get("fitting_seconds") is not None:
        parts = [f"fitted before the import, in {run.cost['fitting_seconds']:,.1f} s"]
    if run.cost.get("users_trained"):
        parts.append(f"trained on {run.cost['users_trained']:,} users")
    cost = escaped(" · ".join(part for part in parts if part), 120)
    kind = KIND_NAMES.get(run.kind, run.kind)
    with st.expander(f"{number}. **{kind}** {escaped(run.name)} · :gray[{cost}]"):
        if run.kind in PAGE_OF:
            page, name = PAGE_OF[run.kind]
            pages.link(page, label=pages.PAGES[page][0], **{name: run.id})
        rows = [("id", run.id), ("finished", f"{str(run.finished)[:19].replace('T', ' ')} UTC")]
        rows += user_details.settings_rows(run.config)
        rows += [("seed", str(run.seed))] if run.seed is not None else []
        rows += user_details.settings_rows(run.cost, "cost: ")
        rows += user_details.settings_rows(dict(run.versions), "version of ")
        tables.show(pd.DataFrame(rows, columns=["Setting", "Value"]))
    if run.kind == "selection":
        trained = user_details.trained_on(engine.root(), run.id, user)
        st.caption(
            ":material/check: This user is among those that the adapter was trained on."
            if trained
            else ":material/block: The adapter was not trained on this user; the prompt was only "
            "mapped."
        )
