"""Builds a model of the zoo: tokenizer, pre-training, fp16 weights and a card, in one folder."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma_engine.files import sha256_file
from puma_engine.training.device import resolve_device
from puma_engine.training.loop import Progress, train
from puma_engine.zoo import ZooEntry, get_entry, zoo_folder
from research.zoo.cards import CARD_FIELDS, LICENCE, LICENCE_NOTE, readme
from research.zoo.corpus import load_foundation
from research.zoo.pretraining import Material, Pretraining, training_answer_loss, validate
from research.zoo.recipe import Recipe
from research.zoo.tokenizers import train_tokenizer, training_texts

LENGTH_BIN = 64  # batches are sorted by length this coarsely, so that templates stay mixed


@dataclass(frozen=True)
class Built:
    """A model folder and its card."""

    folder: Path
    card: dict[str, Any]


def build_model(
    name: str,
    *,
    out: Path | None = None,
    recipe: Recipe | None = None,
    device: str = "auto",
    users: int | None = None,
    checkpoints: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Built:
    """Build one zoo model and write its folder, which replaces an older one at the end.

    Args:
        name: Name of a zoo entry.
        out: Folder of the zoo; None: the shipped one.
        recipe: Settings of the pre-training; None: the defaults.
        device: auto, cpu or cuda.
        users: Use at most so many foundation users of each data set, for trials.
        checkpoints: Folder from which a stopped build of this model continues.
        progress: Called after each step.
        should_cancel: Asked after each step.

    Raises:
        NotFoundError: There is no entry of that name.
        Cancelled: should_cancel returned true.
    """
    entry, recipe = get_entry(name), recipe or Recipe()
    folder = zoo_folder(name) if out is None else Path(out) / name
    corpus, books, movies = load_foundation(users=users)
    tokenizer = train_tokenizer(entry.tokenizer, training_texts(books, movies, entry.tokenizer))
    material = Material.build(recipe, tokenizer, corpus)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = entry.model(tokenizer).train()
    module = Pretraining(model, material.sequences, len(material.train.people), recipe)
    module = module.to(resolve_device(device))
    lengths = material.sequences.lengths()
    result = train(
        module,
        len(lengths),
        recipe.training(),
        lengths=np.ceil(lengths / LENGTH_BIN),
        checkpoint_dir=checkpoints,
        progress=progress,
        should_cancel=should_cancel,
        stage=f"zoo {name}",
    )
    model = module.model.half().float()  # measure what is shipped
    card = _card(entry, recipe, material, model, tokenizer)
    card |= {
        "tokens": int(lengths.sum()),
        "seconds": round(result.seconds, 1),
        "device": torch.cuda.get_device_name() if result.device.startswith("cuda") else "cpu",
    }
    _write(folder, entry, model.half(), tokenizer, card)
    return Built(folder, card)


def _card(
    entry: ZooEntry,
    recipe: Recipe,
    material: Material,
    model: Any,
    tokenizer: Any,
) -> dict[str, Any]:
    import tokenizers
    import transformers

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


def _write(folder: Path, entry: ZooEntry, model: Any, tokenizer: Any, card: dict[str, Any]) -> None:
    """Write the folder under a temporary name, then move it to its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{entry.name}-") as made:
        temporary = Path(made) / entry.name
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "generation_config.json").unlink(missing_ok=True)
        weights = temporary / "model.safetensors"
        weights.chmod(0o644)
        card["sha256"] = sha256_file(weights)
        ordered = {name: card[name] for name in CARD_FIELDS}
        text = json.dumps(ordered, indent=2) + "\n"
        (temporary / "card.json").write_text(text, encoding="utf-8")
        (temporary / "README.md").write_text(readme(ordered, entry), encoding="utf-8")
        if folder.exists():
            shutil.move(folder, Path(made) / "old")
        temporary.replace(folder)


if __name__ == "__main__":  # the command before `python -m research.zoo`
    from research.zoo.__main__ import main

    raise SystemExit(main())
