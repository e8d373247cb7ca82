"""Builds models of the zoo: tokenizer, pre-training, fp16 weights and a card, one folder each.

`python -m research.zoo --only NAME` builds one model; several processes may build different models
at the same time.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma_engine.errors import PumaError
from puma_engine.files import sha256_file
from puma_engine.training.device import resolve_device
from puma_engine.training.loop import Progress, train
from puma_engine.zoo import SHIPPED, ZOO, get_entry, zoo_folder
from research.zoo.cards import make_card, readme
from research.zoo.corpus import load_foundation
from research.zoo.pretraining import Material, Pretraining
from research.zoo.recipe import Recipe
from research.zoo.tokenizers import train_tokenizer, training_texts

PRINT_SECONDS = 10.0
SETTINGS = {
    "steps": "steps; sequences are drawn anew for each",
    "batch_size": "sequences a step",
    "learning_rate": "peak of the cosine schedule",
    "weight_decay": "of AdamW",
    "pairs": "known outcomes in the prompt slot, at most",
    "outcome_weight": "loss weight of outcomes in the slot (the answer's is 1)",
    "text_weight": "loss weight of all other text",
    "user_vectors_share": "share of sequences with a learned user vector in the slot",
    "seed": "of weights, plan and order",
}
LENGTH_BIN = 64  # batches are sorted by length this coarsely, so that templates stay mixed


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
) -> dict[str, Any]:
    """Build one zoo model, write its folder, which replaces an older one, and return its card.

    out: folder of the zoo (None: the shipped one). device: auto, cpu or cuda. users: foundation
    users of each data set, at most, for trials. checkpoints: folder from which a stopped build of
    this model continues. progress, should_cancel: called after each step. Raises NotFoundError for
    an unknown name, Cancelled where should_cancel returned true.
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
    card = make_card(entry, material, model, tokenizer)
    device = torch.cuda.get_device_name() if result.device.startswith("cuda") else "cpu"
    card |= {"tokens": int(lengths.sum()), "seconds": round(result.seconds, 1), "device": device}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Under a temporary name first, so that the folder is whole or not there.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as made:
        temporary = Path(made) / name
        model.half().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "generation_config.json").unlink(missing_ok=True)
        weights = temporary / "model.safetensors"
        weights.chmod(0o644)
        card["sha256"] = sha256_file(weights)
        text = json.dumps(card, indent=2) + "\n"
        (temporary / "card.json").write_text(text, encoding="utf-8")
        (temporary / "README.md").write_text(readme(card), encoding="utf-8")
        if folder.exists():
            shutil.move(folder, Path(made) / "old")
        temporary.replace(folder)
    return card


def _print_progress(name: str) -> Callable[[Progress], None]:
    """Return a callback that prints the first step, and then one line every ten seconds."""
    last = [0.0]

    def show(progress: Progress) -> None:
        now = time.monotonic()
        if progress.step == progress.total or (last[0] and now - last[0] < PRINT_SECONDS):
            return
        last[0] = now
        print(
            f"{name}: step {progress.step}/{progress.total} loss {progress.loss:.3f} "
            f"{progress.examples_per_second:,.0f} sequences/s, {progress.eta_seconds:.0f} s left",
            flush=True,
        )

    return show


def main(argv: list[str] | None = None) -> int:
    """Build models from command-line arguments; return an exit code."""
    default = Recipe()
    parser = argparse.ArgumentParser(prog="python -m research.zoo", description=__doc__)
    about = "build this model (default: all shipped)"
    parser.add_argument("--only", action="append", choices=list(ZOO), help=about)
    parser.add_argument("--out", type=Path, help="folder of the zoo (default: data/zoo)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--users", type=int, help="users of each data set, at most (for trials)")
    for name, text in SETTINGS.items():
        value, option = getattr(default, name), "--" + name.replace("_", "-")
        about = f"{text} (default: %(default)s)"
        parser.add_argument(option, type=type(value), default=value, help=about)
    args = parser.parse_args(argv)
    try:
        recipe = Recipe(**{name: getattr(args, name) for name in SETTINGS})
        for name in args.only or SHIPPED:
            card = build_model(
                name,
                out=args.out,
                recipe=recipe,
                device=args.device,
                users=args.users,
                progress=_print_progress(name),
            )
            summary = {key: card[key] for key in ("training_answer_loss", "validation")}
            print(f"{name}: {card['seconds']} s, {json.dumps(summary)}", flush=True)
    except PumaError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
