"""Makes the zoo: tokenizer, pre-training, fp16 weights and a card, one folder a model.

`python -m research.zoo.build --only NAME --out DIR` builds one model; several processes
may build different models side by side.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puma_engine.errors import PumaError
from puma_engine.files import sha256_file
from puma_engine.training.device import resolve_device
from puma_engine.training.loop import Progress, train
from puma_engine.zoo import SHIPPED, ZOO, ZooEntry, get_entry, zoo_folder
from research.zoo.cards import CARD_FIELDS, LICENCE, LICENCE_NOTE, readme
from research.zoo.corpus import load_foundation
from research.zoo.pretraining import Material, Pretraining, validate
from research.zoo.recipe import Recipe
from research.zoo.tokenizers import train_tokenizer, training_texts

LENGTH_BIN = 64  # batches are sorted by length this coarsely, so that templates stay mixed
PRINT_SECONDS = 10.0
LOSS_ROWS = 2048  # training sequences on which the final answer loss is measured


@dataclass(frozen=True)
class Built:
    """What a build left behind."""

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
    """Build one zoo model and write its folder, replacing an older one at the end.

    out: the folder of the zoo (the shipped one by default); device: auto, cpu or cuda;
    users: use at most so many foundation users of each data set (for trials); checkpoints:
    a folder of this model's own from which a stopped build goes on. Raises NotFoundError for
    an unknown name, Cancelled when asked to stop.
    """
    entry, recipe = get_entry(name), recipe or Recipe()
    folder = zoo_folder(name) if out is None else Path(out) / name
    corpus, books, movies = load_foundation(users=users)
    tokenizer = train_tokenizer(entry.tokenizer, training_texts(books, movies, entry.tokenizer))
    material = Material.build(recipe, tokenizer, corpus)
    module = _new_module(entry, tokenizer, material).to(resolve_device(device))
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
        "device": _device_name(result.device),
    }
    _write(folder, entry, model.half(), tokenizer, card)
    return Built(folder, card)


def _new_module(entry: ZooEntry, tokenizer: Any, material: Material) -> Pretraining:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(material.recipe.seed)
        model = entry.model(tokenizer)
    people = len(material.train.people)
    return Pretraining(model.train(), material.sequences, people, material.recipe)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"


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


@torch.no_grad()
def training_answer_loss(model: Any, material: Material) -> float:
    """Mean cross entropy of the answers (whole vocabulary) of some training sequences."""
    import torch.nn.functional as F

    from research.zoo.pretraining import last_hidden

    model.eval()
    sequences, total = material.sequences, 0.0
    rows = np.arange(min(LOSS_ROWS, len(sequences)))
    for some in np.array_split(rows, max(1, len(rows) // 128)):
        batch = sequences.batch(some)
        at = torch.from_numpy(batch.answer_at).to(model.device)
        label = torch.from_numpy(batch.ids.ravel()[batch.answer_at + 1]).to(model.device)
        logits = model.get_output_embeddings()(last_hidden(model, batch)[at])
        total += float(F.cross_entropy(logits.float(), label, reduction="sum"))
    return total / len(rows)


def _write(folder: Path, entry: ZooEntry, model: Any, tokenizer: Any, card: dict[str, Any]) -> None:
    """Write the whole folder beside its place, then move it there."""
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


def build_zoo(
    names: list[str] | None = None, *, out: Path | None = None, **settings: Any
) -> list[Built]:
    """Build some zoo models (those that ship by default), one after another; see build_model."""
    entries = [get_entry(name) for name in (names or SHIPPED)]
    return [build_model(entry.name, out=out, **settings) for entry in entries]


def _print_progress(name: str) -> Callable[[Progress], None]:
    last = [0.0]

    def show(progress: Progress) -> None:
        now = time.monotonic()
        ended = progress.step == progress.total
        if ended or (last[0] and now - last[0] < PRINT_SECONDS):
            return
        last[0] = now
        print(
            f"{name}: step {progress.step}/{progress.total} loss {progress.loss:.3f} "
            f"{progress.examples_per_second:,.0f} sequences/s, {progress.eta_seconds:.0f} s left",
            flush=True,
        )

    return show


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    default = Recipe()
    parser = argparse.ArgumentParser(prog="python -m research.zoo.build", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(ZOO), help="build this one")
    parser.add_argument("--out", type=Path, help="folder of the zoo (default: data/zoo)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--users", type=int, help="at most so many users a data set (trials)")
    for setting in _SETTINGS:
        value = getattr(default, setting)
        parser.add_argument(
            "--" + setting.replace("_", "-"), type=type(value), default=value, help="%(default)s"
        )
    return parser.parse_args(argv)


_SETTINGS = (
    "steps",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "pairs",
    "outcome_weight",
    "text_weight",
    "user_vectors_share",
    "seed",
)


def main(argv: list[str] | None = None) -> int:
    """Build from command-line arguments; returns an exit code."""
    given = _arguments(argv)
    try:
        recipe = Recipe(**{name: getattr(given, name) for name in _SETTINGS})
        for name in given.only or SHIPPED:
            built = build_model(
                name,
                out=given.out,
                recipe=recipe,
                device=given.device,
                users=given.users,
                progress=_print_progress(name),
            )
            summary = {key: built.card[key] for key in ("training_answer_loss", "validation")}
            print(f"{name}: {built.card['seconds']} s, {json.dumps(summary)}", flush=True)
    except PumaError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
