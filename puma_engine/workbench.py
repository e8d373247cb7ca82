"""The Python API: a workspace with every stage as a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import pandas as pd

from puma_engine import pipeline
from puma_engine.jobs.dispatch import checked_address, run_command
from puma_engine.requests import CLUSTER_REQUESTS
from puma_engine.store import Run, Workspace

P = ParamSpec("P")
R = TypeVar("R")


def _method(
    stage: Callable[Concatenate[Workspace, P], R],
) -> Callable[Concatenate[Workbench, P], R]:
    signature = inspect.signature(stage)
    first, *_ = signature.parameters
    keywords = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")

    def call(self: Workbench, *args: P.args, **kwargs: P.kwargs) -> R:
        if stage.__name__ not in CLUSTER_REQUESTS:
            return stage(self.workspace, *args, **kwargs)
        arguments = signature.bind(self.workspace, *args, **kwargs).arguments
        del arguments[first]
        arguments |= arguments.pop(keywords, {})
        result: R = run_command(
            self.workspace, stage.__name__, on=self.on, workers=self.workers, **arguments
        )
        return result

    call.__doc__, call.__name__ = stage.__doc__, stage.__name__
    call.__wrapped__ = stage  # type: ignore[attr-defined]
    return call


class Workbench:
    """Everything the command line does, on one workspace.

    Each stage takes runs, or their ids or names, and returns its run; a finished run is reused.
    path: the workspace's folder (default: PUMA_WORKSPACE, else ./workspace). create: whether to
    make it if there is none. on: the Ray cluster that computes runs: "ray", ray://HOST:PORT or
    HOST:PORT (default: PUMA_ON, otherwise this machine). workers: processes that train one run
    together there (default: PUMA_CLUSTER_WORKERS, or 1). Raises NotFoundError, StoreError,
    JobError.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        create: bool = False,
        on: str | None = None,
        workers: int | None = None,
    ) -> None:
        self.on = on if on is None else checked_address(on)
        self.workers = workers
        self.workspace = Workspace.open(path, create=create)

    import_dataset = _method(pipeline.import_dataset)
    add_backbone = _method(pipeline.add_backbone)
    fit_prompts = _method(pipeline.fit_prompts)
    refine = _method(pipeline.refine)
    predict_regressions = _method(pipeline.predict_regressions)
    import_prompts = _method(pipeline.import_prompts)
    vectors_from_baseline = _method(pipeline.vectors_from_baseline)
    export_prompts = _method(pipeline.export_prompts)
    embed_prompts = _method(pipeline.embed_prompts)
    export_adapter = _method(pipeline.export_adapter)
    select = _method(pipeline.select)
    migrate = _method(pipeline.migrate)
    chain = _method(pipeline.chain)
    evaluate = _method(pipeline.evaluate)
    predict_anchors = _method(pipeline.predict_anchors)
    compare = _method(pipeline.compare)
    costs = _method(pipeline.costs)
    calibrate = _method(pipeline.calibrate)
    run_plan = _method(pipeline.run_plan)
    project = _method(pipeline.project)
    judge = _method(pipeline.judge_comparison)
    report = _method(pipeline.write_report)
    export_table = _method(pipeline.export_table)
    publish = _method(pipeline.publish)
    add_published = _method(pipeline.add_published)
    demo = _method(pipeline.demo)
    dataset = _method(pipeline.load_dataset)
    prompts = _method(pipeline.load_prompts)
    adapter = _method(pipeline.load_adapter)
    predict_title = _method(pipeline.predict_title)
    predictions = _method(pipeline.read_predictions)
    anchors = _method(pipeline.read_anchors)
    selected_users = _method(pipeline.selected_users)

    def run(self, reference: str) -> Run:
        """Return a run by id, prefix or name."""
        return self.workspace.run(reference)

    def runs(self, kind: str | None = None) -> list[Run]:
        """Return runs, the newest first."""
        return self.workspace.runs(kind=kind)

    def table(self, comparison: Run | str) -> pd.DataFrame:
        """Return a comparison as one frame: a row for each method and metric, with costs."""
        run = pipeline.find(self.workspace, comparison, "comparison")
        scores = pipeline.comparison_scores(self.workspace, run)
        methods = self.workspace.get_table(run.id, "methods")
        costs = methods[["method", "users_trained", "seconds", "seed", "device"]]
        return scores.merge(costs, on="method", how="left", validate="many_to_one")
