"""The card of a zoo model: card.json for programs, README.md for people."""

import platform
from typing import Any

import tokenizers
import torch
import transformers

from puma_engine.evaluation.metrics import METRICS
from puma_engine.zoo import ZooEntry
from research.zoo.pretraining import Material, training_answer_loss, validate

LICENCE = "CC-BY-SA-4.0"
LICENCE_NOTE = (
    "The weights were trained on goodbooks-10k (Zygmunt Zajac, CC BY-SA 4.0) and MovieTweetings "
    "(Simon Dooms, MIT); they are shared under CC BY-SA 4.0."
)


def make_card(entry: ZooEntry, material: Material, model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return what a trained model is and how it scores; the build adds time, device and checksum."""
    recipe = material.recipe
    return {
        "name": entry.name,
        "family": entry.family,
        "role": entry.role,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "width": entry.width,
        "layers": entry.layers,
        "vocabulary": len(tokenizer),
        "tied_head": entry.tied,
        "tokenizer": entry.tokenizer.kind,
        "recipe": recipe.to_dict(),
        "recipe_hash": recipe.hash,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "sequences": len(material.sequences),
        "training_answer_loss": training_answer_loss(model, material),
        "validation": validate(model, material),
        "foundation_users": len(material.train.people),
        "validation_users": len(material.held_out.people),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "licence": LICENCE,
        "licence_note": LICENCE_NOTE,
    }


def readme(card: dict[str, Any]) -> str:
    """Return the model card as Markdown."""
    tables = []
    for source, report in card["validation"].items():
        metric = next(iter(report["item_mean"]))
        label = METRICS["rmse" if metric == "rmse" else "log_loss"].label
        forms = [name for name, scores in report.items() if isinstance(scores, dict)]
        forms.remove("item_mean")
        counts = list(report[forms[0]])
        tables += [
            f"{source}: {label} of {report['rows']:,} rows of {report['users']:,} users, by how many "
            f"known pairs stand in the prompt (item mean: {report['item_mean'][metric]:.3f}).\n",
            "| template | " + " | ".join(f"{count} pairs" for count in counts) + " |",
            "| --- |" + " --- |" * len(counts),
        ]
        for form in forms:
            cells = [f"{report[form][count][metric]:.3f}" for count in counts]
            tables.append(f"| {form} | " + " | ".join(cells) + " |")
        tables.append("")
    validation = "\n".join(tables)
    command = f"python -m research.zoo --only {card['name']} --steps {card['steps']} --seed {card['seed']}"
    return f"""---
license: cc-by-sa-4.0
library_name: transformers
model_name: {card["name"]}
---

# {card["name"]}

A {card["parameters"]:,}-parameter {card["architecture"]} for experiments with migrated soft prompts. \
It knows book and film titles and how people rate them, and nothing else: it is no chat model.

| | |
| --- | --- |
| width, layers | {card["width"]}, {card["layers"]} |
| vocabulary, tokenizer | {card["vocabulary"]:,}, {card["tokenizer"]} |
| output head | {"tied" if card["tied_head"] else "its own"} |
| pre-training | {card["steps"]:,} steps, {card["sequences"]:,} sequences, {card["tokens"]:,} tokens, \
seed {card["seed"]} |
| users | {card["foundation_users"]:,} foundation users, {card["validation_users"]:,} more held out \
for validation; none of them is ever a product user |
| licence | {card["licence"]} |

## Validation on held-out foundation users

{validation}
Made by `{command}`; every setting is in `card.json`. {card["licence_note"]}
"""
