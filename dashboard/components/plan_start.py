"""What a new migration starts from, as the address says it: data, models, route and prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboard import engine
from dashboard.components import query_params
from dashboard.components.formatting import short
from dashboard.components.glossary import term
from dashboard.engine import plans
from dashboard.engine.plans import Plan

TOPOLOGIES = {"single": "Single", "chain": "Chain", "merge": "Several sources"}
ABOUT = {
    "single": "From one model to another.",
    "chain": term("chain"),
    "merge": term("aggregation"),
}
VECTORS = "vectors"
VECTORS_LABEL = "No language model: vectors of users"
FIT = "fit:"
# The models of the worked example come first where nothing else says which.
FIRST = ("llama-small", "llama-medium")


@dataclass(frozen=True)
class Start:
    """The answers so far. Models are ids of runs or names of shipped models; VECTORS is none.

    prompts: of each old model the run of a table, or FIT and the model. first_open: the step that an
    address without one opens.
    """

    dataset: str | None = None
    topology: str = "single"
    old: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    first_open: str = "data"

    def plan(self, strategy: str, budget: int | None, from_predictions: int) -> Plan:
        """Return the plan that these answers and the users who train make."""
        fitted = tuple(value.removeprefix(FIT) for value in self.prompts if value.startswith(FIT))
        tables = tuple(value for value in self.prompts if not value.startswith(FIT))
        return Plan(
            self.topology,
            tables,
            self.targets,
            strategy,
            budget,
            from_predictions=from_predictions,
            dataset=self.dataset if fitted else None,
            fit_on=fitted,
        )


def of_address() -> Start:
    """Return what the address says, with defaults for what it leaves open."""
    tables = {run.id: run for run in engine.sources()}
    datasets = [run.id for run in engine.runs("dataset")]
    known = {*plans.models(), VECTORS}
    topology = str(query_params.read("topology", TOPOLOGIES, "single"))
    name = "sources" if topology == "merge" else "source"
    requested = query_params.read_many(name, {*tables, *(f"{FIT}{model}" for model in known)})
    of_tables = [tables[value] for value in requested if value in tables]
    dataset = query_params.read("dataset", datasets)
    later = query_params.read("step", ("prompts", "users")) is not None
    named = bool(requested) or later or query_params.read("target", known) is not None
    if dataset is None and of_tables:
        dataset = str(of_tables[0].inputs["dataset"])
    if dataset is None and named:
        newest = [run for run in tables.values() if run.config.get("role") == "source"]
        dataset = str(newest[0].inputs["dataset"]) if newest else next(iter(datasets), None)
    if dataset is None:
        return Start(topology=topology)
    old = query_params.read_many("olds" if topology == "merge" else "old", known)
    if not old:
        old = list(dict.fromkeys(_model_of(run) for run in of_tables))
    start = Start(dataset, topology)
    if not old and topology != "merge":
        old = [default_old(start)]
    if topology == "chain":
        targets = query_params.read_many("targets", known)
    else:
        others = (model for model in preferred(plans.models()) if model not in old)
        target = query_params.read("target", known, next(others, None))
        targets = [target] if target else []
    prompts = []
    for model in old:
        options = prompt_options(start, model)
        chosen = next((value for value in requested if value in options), next(iter(options), None))
        if chosen is not None:
            prompts.append(chosen)
    complete = named and problem_of_models(topology, old, targets) is None
    return Start(
        dataset,
        topology,
        tuple(old),
        tuple(targets),
        tuple(prompts),
        "users" if complete else "models" if query_params.read("dataset", datasets) else "data",
    )


def _model_of(run: engine.Run) -> str:
    return str(run.inputs.get("backbone", VECTORS))


def preferred(models: Mapping[str, str]) -> list[str]:
    """Return models in the order in which they are likely meant: those here, newest first, lead.

    Of those that ship, the models of the worked example come first.
    """
    added = {run.id for run in engine.runs("backbone")}

    def rank(model: str) -> tuple[bool, int]:
        return model not in added, FIRST.index(model) if model in FIRST else len(FIRST)

    return sorted(models, key=rank)


def default_old(start: Start) -> str:
    """Return the model that has the newest source prompts, of the data set if there are any."""
    tables = [run for run in engine.sources() if run.config.get("role") == "source"]
    of_data = [run for run in tables if run.inputs.get("dataset") == start.dataset]
    best = next(iter([*of_data, *tables]), None)
    models = plans.models()
    if best is not None and _model_of(best) in models:
        return _model_of(best)
    by_name = {name: model for model, name in models.items()}
    return by_name.get(FIRST[0], next(iter(models)))


def model_labels() -> dict[str, str]:
    """Return how each model is shown; those of one name with their id."""
    models = plans.models()
    added = {run.id for run in engine.runs("backbone")}
    names = list(models.values())
    return {
        model: f"{short(name, 60)} · ships with PUMA"
        if model not in added
        else short(name, 60) + (f" ({model[:6]})" if names.count(name) > 1 else "")
        for model, name in models.items()
    }


def name_of(model: str) -> str:
    """Return the name of a model."""
    return "no language model" if model == VECTORS else plans.models().get(model, model)


def _is_of(run: engine.Run, model: str, dataset: str | None) -> bool:
    return _model_of(run) == model and run.inputs.get("dataset") == dataset


def prompt_options(start: Start, model: str) -> dict[str, str]:
    """Return the tables of a model and data set, source prompts first, and fitting them."""
    suitable = [run for run in engine.sources() if _is_of(run, model, start.dataset)]
    suitable.sort(key=lambda run: run.config.get("role") != "source")
    options = {
        run.id: f"{short(run.name, 60)} ({run.id[:6]}, {run.summary['users']:,} users)"
        for run in suitable
    }
    if model != VECTORS:
        options[f"{FIT}{model}"] = "Fit them first"
    return options


def take_imported(run: engine.Run, start: Start) -> None:
    """Choose imported prompts in the address, and their model where it was added by the import."""
    model = _model_of(run)
    if start.topology != "merge":
        query_params.forget("source", "old")
        query_params.write("source", run.id)
        query_params.write("old", model)
        return
    spec = engine.run(model).config.get("spec") if model != VECTORS else None
    olds = [model if old in (model, spec) else old for old in start.old]
    query_params.forget("olds")
    query_params.write("olds", olds)
    chosen = zip(olds, start.prompts, strict=False)
    query_params.write("sources", [run.id if old == model else value for old, value in chosen])


def problem_of_models(topology: str, old: Sequence[str], new: Sequence[str]) -> str | None:
    """Return what keeps these models from being a route, in a sentence; None if nothing does."""
    if topology == "merge" and len(old) < 2:
        return "A migration from several sources needs two old models or more."
    if topology == "chain" and len(new) < 2:
        return "A chain needs two new models or more, in their order."
    if not new:
        return "Add a second model first: prompts move from one model to another."
    if topology == "single" and list(old) == list(new):
        return "The old and the new model are the same; choose two."
    return None


def about_data(run: engine.Run) -> str:
    """Say in a line what a data set holds."""
    facts = run.summary
    noun = "clicks" if facts.get("task") == "click" else "ratings"
    return (
        f"{facts.get('users', 0):,} users, {facts.get('items', 0):,} items, "
        f"{facts.get('interactions', 0):,} {noun}"
    )


def answer(step: str, start: Start) -> str:
    """Say in a line what a step was answered with."""
    if step == "data":
        run = engine.run(str(start.dataset))
        return f"{run.name}: {about_data(run)}"
    if step == "models":
        old, new = " + ".join(map(name_of, start.old)), " → ".join(map(name_of, start.targets))
        return f"{old} → {new}"
    if step == "prompts":
        return "; ".join(
            f"fitted first on {name_of(value.removeprefix(FIT))}"
            if value.startswith(FIT)
            else engine.run(value).name
            for value in start.prompts
        )
    budget = query_params.read("budget", str.isdigit)
    return "all or as many as chosen" if budget is None else f"{int(budget):,} users"
