"""The glossary: terms, settings of jobs, and steps in plain words, for report and dashboard."""

from __future__ import annotations

import re

from puma_engine.evaluation.baselines import BASELINES
from puma_engine.evaluation.formatting import capitalised, format_share, mid_sentence
from puma_engine.evaluation.metrics import METRICS
from puma_engine.evaluation.user_effects import USER_MARGIN

TERMS = {
    "soft prompt": "A few learned vectors that represent one user. They are inserted into the text "
    "that a language model reads, where a description of the user would be. The model itself is "
    "never changed.",
    "backbone": "The language model, used as it is: its weights are never changed. Everything personal "
    "is in the soft prompts.",
    "adapter": "A small network that maps the soft prompts of one backbone to soft prompts of "
    "another. It is trained on some users and then applied to all.",
    "migration": "Moving every user's soft prompt from an old backbone to a new one with an adapter, "
    "instead of learning all prompts again.",
    "chain": "Several migrations in a row: each starts from the prompts that the previous one made.",
    "aggregation": "One migration from several old backbones: a user's prompts are concatenated "
    "and go through one adapter.",
    "source prompts": "The soft prompts that exist already, fitted on the old (source) backbone.",
    "migrated": "Soft prompts that an adapter made for the new (target) backbone from the "
    "source prompts.",
    "retrained": "Full retraining: soft prompts learned from scratch on the new backbone, from all "
    "records of all users. It is what a migration is meant to save.",
    "refined": "Soft prompts that were fitted further on the new backbone, for some users or for all: after a "
    "migration, or without one where the new backbone can read the old prompts.",
    "random prompts": "Prompts without information on users; only the prediction head is trained. "
    "A method that is no better has learned nothing personal.",
    "shuffled control": "The check with prompts swapped between users: a migration in which every user gets another user's source prompt. The "
    "gain of the real migration over it is the information in the prompts.",
    "baseline": "A prediction without any language model, such as the mean rating of an item, or "
    "user and item averages combined. Cheap, and not always worse.",
    "blended": "Predictions of prompts and of a baseline, weighted together. Validation records choose the "
    "weights. It shows what prompts add to a prediction that needs no language model.",
    "target": "The new backbone, to which the prompts are moved.",
    "template": "The sentence around the soft prompt: it names the item, has a slot for the user's "
    "prompt, and asks for the answer.",
    "answer tokens": "The tokens that count as answers: the digits 1 to 5 for ratings, Yes and No for "
    "clicks. The prediction is read from their scores alone.",
    "participation ratio": "The number of directions in which users' prompts differ: the square of "
    "the summed variances of their principal components, divided by the sum of their squares. Near 1, "
    "prompts lie along a line, such as how generous a user is; more says that they can hold taste, "
    "too.",
    "strategy": "The rule that selects the users on whom the adapter is trained.",
    "budget": "How many users train the adapter (pages say: users who train it). Everybody is migrated in the end.",
    "variance": "How much a user's own ratings differ from each other. Users who give every item "
    "the same rating teach an adapter little.",
    "cluster": "A group of users with similar source prompts, found by k-means.",
    "anchor items": "A few items that are predicted for every user, on every model: popular "
    "ones whose mean ratings differ, chosen from the train records. Means and spreads of predictions "
    "are then over the same titles for everybody.",
    "held-out": "Records that nothing was trained on, reserved for measuring. All quality figures are "
    "measured on the test split unless another is named.",
    "interval": "A 95 % interval, from resampling the users: with other users of the same kind, 95 of 100 "
    "such intervals contain the true figure.",
    "difference": "The difference from the reference, paired over users: both methods are compared on "
    "the same users. If its interval contains 0, no difference was measured.",
    "margin": "The error that you accept: how much worse than full retraining still counts as good. It is a choice; the verdict "
    "depends on it.",
    "regress": "A user regresses when the true loss under the migration is higher than under full "
    f"retraining by more than {format_share(USER_MARGIN)} of the mean loss. The probability takes into account "
    "how few rows a user has and how much users differ.",
    "share kept": "How much of what full retraining gains over a reference a method keeps: 100 % is as "
    "good as full retraining, 0 % no better than the reference, which is random prompts or the item "
    "mean. It is given for the level of predictions and for the order of each user's items, which may "
    "disagree: knowing how generous a user is brings the level and no order. No share is given where "
    "the gain is not sure, that is, where its interval is not above 0.",
    "gain": "How much better migrated prompts are than retrained ones; above 1 (or above 0 as a "
    "difference) the migration wins.",
    "break-even": "The number of users from which on a migration is cheaper than retraining all "
    "prompts.",
    "run": "One finished piece of work in the workspace, with its settings, seed, cost and results. "
    "The same inputs and settings give the same run, so nothing is computed twice.",
    "job": "Work in the queue. It goes on when the browser is closed.",
    "lineage": "Everything that a run was made from, back to the data and the models.",
} | {metric.name: metric.definition for metric in METRICS.values()}


# Settings of jobs in plain words, by stored name. Other names are shown with spaces and a capital letter.
SETTINGS = {
    "backbone": "Model",
    "backbones": "Models",
    "baselines": "Methods without a language model, too",
    "budget": "Users who train it",
    "dataset": "Data set",
    "evaluations": "Evaluations compared",
    "fit_on": "Old models to fit prompts on",
    "item_tokens": "Tokens of an item prompt",
    "items_path": "File of items",
    "method": "Projection of the map",
    "migrated": "Migrated prompts",
    "most": "Maximum number of users drawn",
    "neighbours": "Neighbours that the layout keeps",
    "on": "Computed on the cluster",
    "path": "File",
    "predicted": "Predicted (s)",
    "prompts": "Prompts",
    "reference": "Baseline",
    "retrain": "Retrain all users, too",
    "role": "Purpose",
    "share": "Share of the users who train it",
    "source": "Source",
    "sources": "Prompts of the old model",
    "spec": "Model",
    "targets": "New models",
    "tokens": "Tokens of a prompt",
    "umap": "Maps by UMAP, too",
    "users": "Users",
}
# Names that mean something else in some commands.
SETTINGS_OF = {
    "import_dataset": {"source": "Kind of data, or file"},
    "project": {"source": "Prompts of the old model"},
    "evaluate": {"method": "Method"},
}
# Commands of jobs in plain words.
COMMANDS = {
    "add_backbone": "Add a model",
    "calibrate": "Measure this machine for predicted times",
    "carry_out": "Migrate and compare",
    "chain": "Migrate over several models",
    "compare": "Compare methods",
    "demo": "Build the demo",
    "evaluate": "Evaluate",
    "fit_prompts": "Fit prompts",
    "import_dataset": "Import data",
    "import_prompts": "Import prompts",
    "migrate": "Migrate prompts",
    "predict_anchors": "Predict the same titles for all users",
    "predict_regressions": "Predict who gets worse",
    "project": "Make a map of users",
    "refine": "Refine prompts",
    "run_plan": "Migrate and compare",
    "select": "Select users who train the adapter",
    "vectors_from_baseline": "Vectors of a recommender",
}
# Kinds of runs in plain words; the others are words already.
RUN_KINDS = {
    "anchors": "predictions of the same titles",
    "backbone": "model",
    "calibration": "measured speed of this machine",
    "dataset": "data set",
    "projection": "map of users",
    "selection": "selected users",
}
# Files of runs in plain words, by stored name; the others have their names.
FILES = {
    "anchors": "predictions of the same titles",
    "comparison": "scores",
    "effects": "effect on users",
    "effects_bars": "effect on users, by size",
    "effects_groups": "effect on users, by group",
    "effects_users": "effect on each user",
    "interactions": "records",
    "item_adapter": "adapter of item prompts",
    "item-profiles": "facts of items",
    "map": "positions on the map",
    "places": "positions of all users",
    "selection": "selected users",
    "shares_kept": "shares kept of retraining's gain",
    "source_changes": "change from the old model",
    "space": "principal components of the prompts",
    "user_metrics": "metrics of each user",
    "user-profiles": "facts of users",
}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
# Values of settings in plain words, by stored setting and value.
VALUES = {"method": {"umap": "UMAP", "pca": "PCA"}}
STEPS = {
    "data": "Data",
    "source model": "Old model",
    "target model": "New model",
    "third model": "Third model",
    "source": "Prompts of the old model",
    "retrained": "Full retraining",
    "refined": "Refined migration",
    "random": "Random prompts",
    "shuffled": "Check: prompts swapped between users",
    "comparison": "Comparison and verdict",
}
PREFIXES = {
    "evaluation of ": "Evaluate",
    "anchors of ": "Predict the same titles",
    "map of ": "Map by PCA",
    "UMAP of ": "Map by UMAP",
}


def setting(name: str, command: str = "") -> str:
    """Return the name of a job's setting in plain words."""
    labels = SETTINGS | SETTINGS_OF.get(command, {})
    return labels.get(name) or capitalised(name.replace("_", " "))


def command(name: str) -> str:
    """Return a command of jobs in plain words."""
    return COMMANDS.get(name) or capitalised(name.replace("_", " "))


def run_kind(kind: str) -> str:
    """Return a kind of run in plain words, without a capital letter."""
    return RUN_KINDS.get(kind, kind)


def file_label(name: str) -> str:
    """Return what a file of a run holds, with a capital letter."""
    return capitalised(FILES.get(name) or name.replace("_", " "))


def device(name: str) -> str:
    """Return a device in plain words: CPU, GPU, or GPU and its number."""
    kind, _, number = name.partition(":")
    label = DEVICES.get(kind, name)
    return f"{label} {number}" if number and kind in DEVICES else label


def setting_value(name: str, value: str) -> str:
    """Return the value of a job's setting in plain words; most are words already."""
    return VALUES.get(name, {}).get(value, value)


def step_title(title: str) -> str:
    """Return the title of a step of a job in plain words; titles that are sentences are unchanged."""
    if title in STEPS:
        return STEPS[title]
    if title in BASELINES:
        return BASELINES[title].label
    for beginning, description in PREFIXES.items():
        if title.startswith(beginning):
            rest = step_title(title.removeprefix(beginning))
            return f"{description}: {mid_sentence(rest)}"
    if match := _MIGRATED.fullmatch(title):
        return f"Migration trained on {match[1]} of the users"
    return capitalised(title)


_MIGRATED = re.compile(r"migrated ([\d.]+ %)")


def heading(term: str) -> str:
    """Return a term as a heading: the label of a metric, otherwise the term with a capital letter."""
    return METRICS[term].heading if term in METRICS else term[0].upper() + term[1:]
