"""What the page People is about: a prompt table, what it is compared with, and its users."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from dashboard import engine
from dashboard.engine import Run, comparisons, datasets, user_details, user_maps
from dashboard.engine.user_details import APART, brief
from dashboard.engine.user_impact import EvaluationPair, impact
from puma_engine.errors import DataError, NotFoundError, StoreError
from puma_engine.evaluation.formatting import method_names
from puma_engine.evaluation.metrics import METRICS, PRIMARY_METRIC, RANKING_METRIC
from puma_engine.evaluation.user_effects import (
    CERTAINTIES,
    LIKELY,
    LISTED_USERS,
    SURE,
    certainties,
    with_values,
)
from puma_engine.evaluation.verdict import plan_noun
from puma_engine.maps.behaviour import order_agreement
from puma_engine.maps.projection import principal_map, principal_plane
from puma_engine.pipeline.anchors import common_anchors, read_anchors
from puma_engine.pipeline.evaluating import (
    ids_of,
    method_label,
    prompts_label,
    read_user_metric,
)
from puma_engine.pipeline.importing_data import task_of
from puma_engine.pipeline.stored_prompts import PromptTableReader, has_model
from puma_engine.pipeline.user_behaviour import (
    MAX_ROWS,
    read_anchor_behaviour,
    read_behaviour,
)
from puma_engine.store import Workspace

__all__ = ["LIKELY", "LISTED_USERS", "MAX_ROWS", "METRICS", "SURE", "brief"]

# The order of prompt tables in lists: what a visitor most likely wants to look at first.
ROLES = ("migrated", "refined", "shuffled", "source", "retrained", "random")
# Principal components of larger tables are not computed on the page.
MAX_TABLE_BYTES = 128 << 20
MAX_COMPONENTS = 1024

# What identifies the positions of users on a view, and is an argument of cached functions.
Key = tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """The prompt table that the page is about, and what it is compared with.

    source: the prompts that it was made from (None for fitted prompts). comparison: the run that
    compares it, its evaluation in it, and reference, the evaluation that others are compared with;
    None without a comparison. retrained: the evaluation of a full retraining that it replaces.
    """

    run: Run
    label: str
    dataset: str
    task: str
    source: Run | None
    comparison: Run | None
    evaluation: str | None
    reference: str | None
    retrained: str | None
    source_evaluation: str | None

    @property
    def is_reuse(self) -> bool:
        """Whether the source prompts were refined without a migration."""
        return self.source is not None and self.source.id == self.run.inputs.get("start")

    @property
    def noun(self) -> str:
        """What a sentence calls the step from the source prompts to this table."""
        return plan_noun(is_reuse=self.is_reuse)

    @property
    def participle(self) -> str:
        """What a sentence says was done to the source prompts: migrated or refined."""
        return "refined" if self.is_reuse else "migrated"

    @property
    def metric(self) -> str:
        """The column of each user's primary metric."""
        return str(METRICS[PRIMARY_METRIC[self.task]].user_column)

    @property
    def ranking(self) -> str:
        """The column of how well the items of each user are ordered."""
        return str(METRICS[RANKING_METRIC[self.task]].user_column)

    @property
    def pair(self) -> EvaluationPair | None:
        """What the effect on users is measured between; None without a comparison with another."""
        if self.comparison is None or self.evaluation is None or self.reference is None:
            return None
        if self.reference == self.evaluation:
            return None
        ratings = self.task == "rating"
        return EvaluationPair(self.comparison.id, self.evaluation, self.reference, ratings)


def labels() -> dict[str, str]:
    """Return the names of all prompt tables in plain words, by id, migrations first.

    Where tables would have the same name, what tells them apart is added: the models, the data set, the
    seed, the name of the run, or else the beginning of its id.
    """
    ws = engine.workspace()
    runs = [
        run
        for kind in ("migration", "prompts")
        for run in engine.runs(kind)
        if run.config.get("role") in ROLES and {"dataset", "backbone"} <= run.inputs.keys()
    ]
    runs.sort(key=lambda run: ROLES.index(run.config["role"]))
    raw = {run.id: _raw_label(ws, run) for run in runs}
    words = method_names(raw.values())
    names = {run.id: words[raw[run.id]] for run in runs}
    by_id = {run.id: run for run in runs}
    additions: list[Callable[[Run], str]] = [
        *(_route, _data_name, lambda run: f"seed {run.seed}"),
        *(lambda run: run.name, lambda run: run.id[:6]),
    ]
    for more in additions:
        by_name: dict[str, list[str]] = {}
        for run_id, name in names.items():
            by_name.setdefault(name, []).append(run_id)
        for name, members in by_name.items():
            facts = [more(by_id[member]) for member in members] if len(members) > 1 else []
            if len(set(facts)) > 1:
                names |= {m: f"{name}{APART}{f}" for m, f in zip(members, facts, strict=True)}
    return names


def _route(run: Run) -> str:
    """Return the models that prompts came over, from the first one on."""
    model = _name(run.inputs["backbone"])
    sources = [_route(source) for source in sources_of(run) if "backbone" in source.inputs]
    return f"{' + '.join(sources)} → {model}" if sources else model


def _data_name(run: Run) -> str:
    return _name(run.inputs["dataset"])


def _name(run_id: str) -> str:
    try:
        return engine.run(run_id).name
    except NotFoundError:
        return run_id


def _raw_label(ws: Workspace, run: Run) -> str:
    try:
        return prompts_label(ws, run)
    except (KeyError, NotFoundError):  # of a selection that is gone
        return run.name


def prompts_of(run_id: str) -> str:
    """Return the prompt table that an address means: its own id, or that of its evaluation."""
    try:
        return engine.run(run_id).inputs.get("prompts", run_id)
    except engine.PumaError:
        return run_id


def default(known: dict[str, str], dataset: str | None, methods: list[str]) -> str:
    """Return the prompt table to begin with.

    It is the first migration among some evaluations, else the first table of a data set, else the
    migration that the Summary's verdict is about, else one that has a map, else the first.
    """
    migrated = {run.id for run in engine.runs("migration")}
    prompts = [run_id for run_id in map(prompts_of, methods) if run_id in migrated]
    if not prompts and dataset is not None:
        prompts = [run_id for run_id in known if engine.run(run_id).inputs["dataset"] == dataset]
    if not prompts:
        prompts = [run_id for run_id in [comparisons.judged_migration()] if run_id in known]
    if not prompts:
        mapped = {run.inputs.get("migrated") for run in engine.runs("projection")}
        prompts = [run_id for run_id in known if run_id in mapped]
    return (prompts or list(known))[0]


def members(comparison: str) -> list[str]:
    """Return the evaluations of a comparison."""
    return comparisons.members(engine.run(comparison))


def sources_of(run: Run) -> list[Run]:
    """Return the source prompts of a migration in its order; those of its start if it is refined.

    Prompts that were refined without a migration have their start as the source.
    """
    if "start" in run.inputs:
        start = engine.run(run.inputs["start"])
        return sources_of(start) or [start]
    return [engine.run(key) for role, key in run.inputs.items() if role.startswith("source_")]


def subject(run: Run, label: str, source: Run | None, comparison: str | None) -> Subject:
    """Return what a prompt table is compared with.

    comparison: the id of the comparison to use if the table is in it; else the newest with it.
    """
    evaluations = engine.runs("evaluation")
    prompts = {item.id: item.inputs.get("prompts") for item in evaluations}
    compared = engine.runs("comparison")
    compared.sort(key=lambda item: item.id != comparison)
    chosen = next(
        (c for c in compared if run.id in {prompts.get(key) for key in comparisons.members(c)}),
        None,
    )
    inside = comparisons.members(chosen) if chosen else []

    def evaluation_of(prompts_id: str | None) -> str | None:
        """Return the evaluation of prompts in the comparison, else the newest on test rows."""
        if prompts_id is None:
            return None
        newest = user_maps.evaluation_of(prompts_id)
        compared_with = (key for key in inside if prompts.get(key) == prompts_id)
        return next(compared_with, newest.id if newest else None)

    reference = chosen.inputs.get("reference") if chosen else None
    pinned = prompts.get(reference) if reference else None
    retraining = user_maps.retraining_of(run)
    is_retraining = pinned is not None and engine.run(pinned).config.get("role") == "retrained"
    return Subject(
        run,
        label,
        run.inputs["dataset"],
        task_of(engine.workspace(), run),
        source,
        chosen,
        evaluation_of(run.id),
        reference,
        reference if is_retraining else evaluation_of(retraining.id if retraining else None),
        evaluation_of(source.id if source else None),
    )


def name_of(evaluation: str, known: dict[str, str]) -> str:
    """Return the name of an evaluation's method. known: names of prompt tables by id."""
    run = engine.run(evaluation)
    prompts = run.inputs.get("prompts")
    return known[prompts] if prompts in known else method_label(engine.workspace(), run)


@dataclass(frozen=True)
class Positions:
    """Where users are on a view.

    frame: one row for each user: user_id, mean (of all outcomes), records, variance, and cluster where
    users are clustered. points: coordinates by panel, [n, 2]. facts: what is known of the view.
    """

    frame: pd.DataFrame
    points: dict[str, np.ndarray]
    facts: dict[str, Any]


def behaviour_key(subject: Subject) -> Key | None:
    """Return the key of the behaviour of users; None where too little is predicted.

    It is over anchor items where all models predicted the same ones, else over held-out records.
    """
    prompts = anchored_prompts(subject)
    anchors = common_anchors(engine.workspace(), list(prompts.values()))
    if anchors:
        panels = dict(zip(prompts, (run.id for run in anchors), strict=True))
        key = ("anchors", subject.dataset, *_flat(panels))
        with suppress(StoreError):  # of a damaged file; the page says so
            if positions(engine.root(), key) is not None:
                return key
    evaluations = {
        "old": subject.source_evaluation,
        "migrated": subject.evaluation,
        "retrained": subject.retrained,
    }
    panels = _distinct(evaluations)
    return None if "migrated" not in panels else ("behaviour", subject.dataset, *_flat(panels))


def anchored_prompts(subject: Subject) -> dict[str, str]:
    """Return the prompt tables whose predictions of anchor items are compared, by panel."""
    source, retrained = subject.source, subject.retrained
    return _distinct(
        {
            "old": source.id if source is not None and has_model(source) else None,
            "migrated": subject.run.id,
            "retrained": None if retrained is None else engine.run(retrained).inputs["prompts"],
        }
    )


def prompts_lacking_anchors(subject: Subject) -> list[Run]:
    """Return the prompt tables that have to predict anchor items, so that all have the same.

    Empty where they have them, or where one has no prompts here that a model could read.
    """
    ws, prompts_ids = engine.workspace(), list(anchored_prompts(subject).values())
    if common_anchors(ws, prompts_ids) or not all(map(user_details.has_prompts, prompts_ids)):
        return []
    lacking = [prompts for prompts in prompts_ids if common_anchors(ws, [prompts]) is None]
    return [engine.run(prompts) for prompts in lacking or prompts_ids]


def predict_anchors(runs: list[Run]) -> None:
    """Queue the jobs that predict anchor items. Raises BackboneError where a model is missing."""
    for run in runs:
        engine.queue("predict_anchors", {"prompts": run.id}, f"Predict the same titles: {run.name}")


def _distinct(panels: dict[str, str | None]) -> dict[str, str]:
    """Return the panels that have something of their own."""
    result: dict[str, str] = {}
    for panel, run_id in panels.items():
        if run_id is not None and run_id not in result.values():
            result[panel] = run_id
    return result


def _flat(panels: dict[str, str]) -> list[str]:
    return [text for pair in panels.items() for text in pair]


def map_key(subject: Subject, method: str, *, all_users: bool = False) -> Key | None:
    """Return the key of the newest finished map by a method; None if there is none."""
    run = projection(subject, method)
    if run is None:
        return None
    return ("map", subject.dataset, run.id, "all" if all_users else "drawn")


def projection(subject: Subject, method: str | None = None) -> Run | None:
    """Return the newest finished map of a migration, by a method if one is given."""
    if subject.source is None:
        return None
    inputs = {"source": subject.source.id, "migrated": subject.run.id}
    runs = (run for run in engine.runs("projection") if run.inputs == inputs)
    return next((run for run in runs if method in (None, run.summary["method"])), None)


def components_key(subject: Subject) -> Key | None:
    """Return the key of the principal components; None for tables too large for the page."""
    tables = [subject.source, subject.run] if subject.source else [subject.run]
    for run in tables:
        if not user_details.has_prompts(run.id):
            return None
        shape = run.summary
        users, width = shape.get("users", 0), shape.get("tokens", 1) * shape.get("width", 0)
        if 4 * users * width > MAX_TABLE_BYTES or min(users, width) > MAX_COMPONENTS:
            return None
    return ("components", subject.dataset, *(run.id for run in tables))


@st.cache_resource(max_entries=6, show_spinner=False)
def positions(root: str, key: Key) -> Positions | None:
    """Return where users are on a view; None if predictions are gone. Do not change the result.

    Raises StoreError or DataError for a damaged map or damaged prompts.
    """
    ws = Workspace.open(root)
    kind, dataset, *rest = key
    if kind in ("behaviour", "anchors"):
        panels = dict(zip(rest[::2], rest[1::2], strict=True))
        names = list(panels.values())
        users = (read_behaviour if kind == "behaviour" else read_anchor_behaviour)(ws, names)
        if users is None or users.empty:
            return None
        points = {
            panel: users[[f"mean_{number}", f"spread_{number}"]].to_numpy(np.float32)
            for number, panel in enumerate(panels)
        }
        medians = {panel: float(np.median(values[:, 1])) for panel, values in points.items()}
        frame = users[["user_id"]]
        facts: dict[str, Any] = {"medians": medians}
        if kind == "anchors":
            facts["anchors"] = ws.run(names[0]).config["items"]
            facts["agreement"] = {
                panel: order_agreement(read_anchors(ws, name).predictions)
                for panel, name in panels.items()
            }
        else:
            facts["rows"] = int(users["rows"].sum())
    elif kind == "components":
        frame, points, facts = _components(ws, rest)
    else:
        run_id, part = rest
        read = user_maps.all_users if part == "all" else user_maps.users
        table = read(root, run_id)
        points = {
            side: table[[f"{side}_x", f"{side}_y"]].to_numpy(np.float32)
            for side in ("source", "migrated")
        }
        frame, facts = table[["user_id", "cluster"]], dict(ws.run(run_id).summary)
    return Positions(_with_profiles(root, dataset, frame), points, facts)


def _with_profiles(root: str, dataset: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Add the mean, records and variance of each user's outcomes; NaN for users without records."""
    profiles = datasets.profiles(root, dataset, "user")
    rows = pc.index_in(ids_of(frame), ids_of(profiles)).fill_null(-1).to_numpy()
    known = rows >= 0
    columns = {}
    for name in ("mean", "records", "variance"):
        values = profiles[name].to_numpy(np.float32)
        columns[name] = np.where(known, values[rows], np.float32("nan"))
    return frame.reset_index(drop=True).assign(**columns)


def _components(
    ws: Workspace, runs: list[str]
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, Any]]:
    """Return the users of one or two prompt tables on their principal components."""
    readers = [PromptTableReader(ws, run) for run in runs]
    tables = [np.concatenate([block for _, block in reader.blocks()]) for reader in readers]
    ids = readers[0].user_ids
    if len(readers) == 1:
        plane, share = principal_plane(tables[0])
        return _ids(ids), {"migrated": plane.astype(np.float32)}, {"shares": {"migrated": share}}
    rows = pc.index_in(ids, readers[1].user_ids)
    shared = rows.is_valid().to_numpy(zero_copy_only=False)
    projected = principal_map(tables[0][shared], tables[1][rows.drop_null().to_numpy()])
    points = {name: getattr(projected, name).astype(np.float32) for name in ("source", "migrated")}
    shares = {"source": projected.source_shares, "migrated": projected.migrated_shares}
    facts = {"shares": shares, "misfit": projected.misfit}
    return _ids(ids.filter(pa.array(shared))), points, facts


def _ids(users: pa.Array) -> pd.DataFrame:
    return pd.DataFrame({"user_id": pd.array(users, dtype="str")})


def rows_of(frame: pd.DataFrame, users: pd.DataFrame) -> np.ndarray:
    """Return the rows of a frame whose user_id is among those of another, ascending, [k] int."""
    return np.flatnonzero(pc.is_in(ids_of(frame), ids_of(users)).to_numpy(zero_copy_only=False))


@st.cache_data(max_entries=6, show_spinner=False)
def anchor_titles(root: str, dataset: str, items: tuple[str, ...]) -> pd.DataFrame:
    """Return title, records and mean outcome of anchor items, in their order."""
    profiles = datasets.profiles(root, dataset, "item").set_index("item_id")
    return profiles.loc[list(items), ["text", "records", "mean"]].reset_index(drop=True)


def one_dimensional(subject: Subject) -> dict[str, float]:
    """Return the share of variance along the first component of each table, by panel, if known."""
    run = projection(subject)
    if run is not None and "variance_source" in run.summary:
        return {name: run.summary[f"variance_{name}"] for name in ("source", "migrated")}
    key = components_key(subject)
    if key is None:
        return {}
    try:
        components = positions(engine.root(), key)
    except (StoreError, DataError):  # the part that needs the prompts says so
        return {}
    return (
        {}
        if components is None
        else {n: float(s[0]) for n, s in components.facts["shares"].items()}
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def scores(root: str, key: Key, evaluation: str, metric: str) -> np.ndarray:
    """Return one metric of the users of a view, [n] float32; NaN where it is not measured."""
    view = positions(root, key)
    assert view is not None
    return read_user_metric(Workspace.open(root), evaluation, metric, ids_of(view.frame))


def loss(subject: Subject, key: Key, evaluation: str | None, metric: str = "") -> np.ndarray:
    """Return a metric of users in an evaluation, by default the primary one; NaN without any."""
    if evaluation is None:
        view = positions(engine.root(), key)
        return np.full(0 if view is None else len(view.frame), np.nan, np.float32)
    return scores(engine.root(), key, evaluation, metric or subject.metric)


def gain(subject: Subject, key: Key) -> np.ndarray:
    """Return how much better users are served than by full retraining; positive is better."""
    values = loss(subject, key, subject.retrained) - loss(subject, key, subject.evaluation)
    return -values if METRICS[subject.metric].higher_is_better else values


@st.cache_resource(max_entries=6, show_spinner=False)
def clusters(root: str, key: Key, projection_id: str) -> np.ndarray:
    """Return the cluster of the users of a view from a map, [n] int; -1 where it is unknown."""
    view = positions(root, key)
    assert view is not None
    has_all_users = Workspace.open(root).run(projection_id).summary.get("placed")
    table = (user_maps.all_users if has_all_users else user_maps.users)(root, projection_id)
    rows = pc.index_in(ids_of(view.frame), ids_of(table)).fill_null(-1).to_numpy()
    return np.where(rows >= 0, table["cluster"].to_numpy()[rows], -1)


@dataclass(frozen=True)
class Affected:
    """How many users a method serves worse than the reference, by certainty.

    counts: users by name of CERTAINTIES. exact: the counts are of all users; else unknown and
    unlikely are estimated from a sample. frame: users with first and second (RMSE or loss of
    reference and method), gap, probability, and certainty (a name), most likely first.
    """

    counts: dict[str, int]
    exact: bool
    frame: pd.DataFrame


@st.cache_resource(max_entries=8, show_spinner=False)
def affected(root: str, pair: EvaluationPair) -> Affected | None:
    """Return which users a method serves worse; None if predictions are gone."""
    measured = impact(root, pair)
    if measured is None:
        return None
    names, effects = list(CERTAINTIES), measured.effects
    users = pd.concat([effects.frame, measured.sample]).drop_duplicates("user_id")
    codes = certainties(users["probability"].to_numpy())
    frame = with_values(users, ratings=pair.ratings)
    frame = frame.assign(certainty=[names[code] for code in codes])
    frame = frame.sort_values("probability", ascending=False, kind="stable", ignore_index=True)
    exact = len(frame) == effects.users
    counts = {name: int((codes == code).sum()) for code, name in enumerate(names)}
    if not exact:
        # Likely users are all stored; the others are counted in the sample.
        rest = effects.users - counts["surely"] - counts["likely"]
        sampled = certainties(measured.sample["probability"].to_numpy())
        share = (sampled == names.index("unknown")).sum() / max((sampled >= 2).sum(), 1)
        counts["unknown"] = round(rest * float(share))
        counts["unlikely"] = rest - counts["unknown"]
    return Affected(counts, exact, frame)


def is_user(dataset: str, user: str) -> bool:
    """Say whether a data set has records of a user."""
    return bool(pc.index(_known(engine.root(), dataset), pa.scalar(user, pa.string())).as_py() >= 0)


def find(dataset: str, text: str, limit: int) -> list[str]:
    """Return at most `limit` ids of users of a data set that begin with a text."""
    ids = _known(engine.root(), dataset)
    return [str(user) for user in pc.filter(ids, pc.starts_with(ids, text))[:limit].to_pylist()]


@st.cache_resource(max_entries=4, show_spinner=False)
def _known(root: str, dataset: str) -> pa.Array:
    return ids_of(datasets.profiles(root, dataset, "user"))
