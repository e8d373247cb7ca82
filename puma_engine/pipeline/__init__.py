"""Stages on a workspace: every function makes one run, or returns the finished one.

Importing this package does not load torch; stages load it when they compute.
"""

from collections.abc import Callable
from typing import Any

from puma_engine.pipeline.anchors import predict_anchors, read_anchors, run_anchors
from puma_engine.pipeline.backbones import add_backbone, list_zoo, load_backbone
from puma_engine.pipeline.calibrating import calibrate
from puma_engine.pipeline.comparing import (
    compare,
    comparison_changes,
    comparison_scores,
    comparison_shares,
    comparison_users,
    find_comparison,
    method_cost,
)
from puma_engine.pipeline.demo import demo
from puma_engine.pipeline.evaluating import (
    evaluate,
    pooled_metrics,
    read_predictions,
    run_evaluation,
)
from puma_engine.pipeline.exporting import embed_prompts, export_adapter, export_prompts
from puma_engine.pipeline.fitting import fit_prompts, run_fit
from puma_engine.pipeline.importing_data import import_dataset, load_dataset
from puma_engine.pipeline.importing_prompts import import_prompts
from puma_engine.pipeline.importing_vectors import vectors_from_baseline
from puma_engine.pipeline.method_survey import evaluated_methods, gain_between
from puma_engine.pipeline.migrating import chain, migrate, run_chain, run_migration
from puma_engine.pipeline.plan_running import execute_plan, run_plan
from puma_engine.pipeline.planning import costs, plan_stages, predict_costs
from puma_engine.pipeline.predicting import Prediction, Predictor, predict_title
from puma_engine.pipeline.predicting_regressions import predict_regressions
from puma_engine.pipeline.projecting import project
from puma_engine.pipeline.publishing import (
    add_published,
    publish,
    published_comparisons,
    remove_published,
)
from puma_engine.pipeline.refining import refine, run_refining
from puma_engine.pipeline.reporting import export_table, render_report, write_report
from puma_engine.pipeline.selecting import run_selection, select, selected_users
from puma_engine.pipeline.stage import Execution, find
from puma_engine.pipeline.stored_prompts import PromptTableReader, load_adapter, load_prompts
from puma_engine.pipeline.verdicts import judge_comparison
from puma_engine.store import Workspace

# Stages by name, which the command line and the job queue call with JSON arguments.
COMMANDS: dict[str, Callable[..., Any]] = {
    stage.__name__: stage
    for stage in (
        import_dataset,
        add_backbone,
        fit_prompts,
        import_prompts,
        vectors_from_baseline,
        refine,
        predict_regressions,
        select,
        migrate,
        chain,
        evaluate,
        predict_anchors,
        compare,
        project,
        run_plan,
        calibrate,
        demo,
    )
}
# Functions that execute the requests of `puma_engine.requests.CLUSTER_REQUESTS`.
EXECUTORS: dict[str, Callable[[Workspace, Any, Execution], Any]] = {
    "fit_prompts": run_fit,
    "select": run_selection,
    "migrate": run_migration,
    "chain": run_chain,
    "refine": run_refining,
    "evaluate": run_evaluation,
    "predict_anchors": run_anchors,
    "run_plan": execute_plan,
}
# Commands of jobs that earlier versions queued.
COMMANDS["carry_out"] = run_plan
