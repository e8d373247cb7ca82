"""The card of a zoo model: card.json for programs, README.md for people."""

from __future__ import annotations

from typing import Any

from puma_engine.evaluation.metrics import METRICS
from puma_engine.zoo import ZooEntry

LICENCE = "CC-BY-SA-4.0"
LICENCE_NOTE = (
    "The weights were trained on goodbooks-10k (Zygmunt Zajac, CC BY-SA 4.0) and MovieTweetings "
    "(Simon Dooms, MIT); they are shared under CC BY-SA 4.0."
)
CARD_FIELDS = (
    "name",
    "family",
    "role",
    "architecture",
    "parameters",
    "width",
    "layers",
    "vocabulary",
    "tied_head",
    "tokenizer",
    "recipe",
    "recipe_hash",
    "seed",
    "steps",
    "sequences",
    "tokens",
    "training_answer_loss",
    "validation",
    "foundation_users",
    "validation_users",
    "seconds",
    "device",
    "versions",
    "licence",
    "licence_note",
    "sha256",
)


def readme(card: dict[str, Any], entry: ZooEntry) -> str:
    """Return the model card as Markdown."""
    command = (
        f"python -m research.zoo --only {entry.name} --steps {card['steps']} --seed {card['seed']}"
    )
    front = (
        f"---\nlicense: cc-by-sa-4.0\nlibrary_name: transformers\nmodel_name: {entry.name}\n---\n"
    )
    return "\n".join(
        [
            front,
            f"# {entry.name}",
            "",
            (
                f"A {card['parameters']:,}-parameter {card['architecture']} for experiments with migrated "
                "soft prompts. It knows book and film titles and how people rate them, and nothing else: "
                "it is no chat model."
            ),
            "",
            "| | |",
            "| --- | --- |",
            f"| width, layers | {card['width']}, {card['layers']} |",
            f"| vocabulary, tokenizer | {card['vocabulary']:,}, {card['tokenizer']} |",
            f"| output head | {'tied' if card['tied_head'] else 'its own'} |",
            (
                f"| pre-training | {card['steps']:,} steps, {card['sequences']:,} sequences, "
                f"{card['tokens']:,} tokens, seed {card['seed']} |"
            ),
            (
                f"| users | {card['foundation_users']:,} foundation users, {card['validation_users']:,} more "
                "held out for validation; none of them is ever a product user |"
            ),
            f"| licence | {card['licence']} |",
            "",
            "## Validation on held-out foundation users",
            "",
            *_tables(card["validation"]),
            f"Made by `{command}`; every setting is in `card.json`. {card['licence_note']}",
            "",
        ]
    )


def _tables(validation: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for source, report in validation.items():
        metric = next(iter(report["item_mean"]))
        label = METRICS["rmse" if metric == "rmse" else "log_loss"].label
        forms = [name for name, scores in report.items() if isinstance(scores, dict)]
        forms.remove("item_mean")
        counts = list(report[forms[0]])
        lines += [
            (
                f"{source}: {label} of {report['rows']:,} rows of {report['users']:,} users, by how many "
                f"known pairs stand in the prompt (item mean: {report['item_mean'][metric]:.3f})."
            ),
            "",
            "| template | " + " | ".join(f"{count} pairs" for count in counts) + " |",
            "| --- |" + " --- |" * len(counts),
        ]
        for form in forms:
            cells = [f"{report[form][count][metric]:.3f}" for count in counts]
            lines.append(f"| {form} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines
