"""Expected memory and hours of the paper's experiment with published models on one GPU.

`python benchmarks/expected_hours.py --markdown docs/bigger-models.md` writes the table there, between
its marks. The hours are an estimate: rates of benchmarks/results/throughput-prompt-last.json for ratings
and of throughput.json for clicks, times the rows that the cells of `puma study table2` read. Early
stopping, loading, compiling and statistics are left out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapes import weight_counts

from puma_engine.datasets import load_shipped
from puma_engine.pipeline.expected_time import DataCounts, ModelSpeed
from puma_engine.studies import Cell, Options, get_study
from puma_engine.studies.quick_users import model_of_cell, rows_read_by

RESULTS = Path(__file__).parent / "results"
DEVICE, PRECISION, BATCH = "NVIDIA H200", "bf16", 256
# The file of rates and the order of each task's default template, as that file names it.
RATES = {
    "rating": ("throughput-prompt-last.json", "prompt_last"),
    "click": ("throughput.json", "item_first"),
}
Rows = Sequence[dict[str, Any]]
MARKS = ("<!-- hours -->", "<!-- /hours -->")
# Of each model: its name, its hub id, and the measured model whose rates it takes.
MODELS = {
    "llama-3.2-1b": ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"),
    "llama-3.2-3b": ("Llama-3.2-3B", "meta-llama/Llama-3.2-3B-Instruct", "llama-3.2-3b"),
    "qwen2.5-1.5b": ("Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct", "qwen2.5-3b"),
    "qwen2.5-3b": ("Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct", "qwen2.5-3b"),
    "gemma-3-1b": ("Gemma-3-1B", "google/gemma-3-1b-it", "gemma-3-1b"),
    "phi-3-mini": ("Phi-3-mini", "microsoft/Phi-3-mini-4k-instruct", "phi-3-mini"),
    "phi-4-mini": ("Phi-4-mini", "microsoft/Phi-4-mini-instruct", "phi-3-mini"),
    "stablelm-2-1.6b": ("StableLM-2-1.6B", "stabilityai/stablelm-2-1_6b-chat", "stablelm-2-1.6b"),
}
SOURCE, TARGET = "the source", "the target"
READERS = ("fit_prompts", "migrate", "refine", "evaluate")


@dataclass(frozen=True)
class Data:
    """A data set: its name, task, users, and counts of rows and items."""

    name: str
    task: str
    users: int
    counts: DataCounts


def measured_speed(rows: Rows, backbone: str, way: str) -> tuple[ModelSpeed, float]:
    """Return the measured rates of a model (read and train, per second) and its peak memory in GB.

    way: the order of the template, as the rows name it. The slower of fitting prompts and training an
    adapter is used.
    """
    selection = {"device": DEVICE, "precision": PRECISION, "way": way, "batch": BATCH}
    by_stage = {
        row["stage"]: row
        for row in rows
        if row["backbone"] == backbone
        and all(row[key] == value for key, value in selection.items())
    }
    adapter, prompts, evaluation = (by_stage[name] for name in ("adapter", "prompts", "evaluation"))
    training = min(adapter["examples_per_s"], prompts["examples_per_s"])
    items = adapter["prefixes"] / adapter["prefix_seconds"]
    return ModelSpeed(items, training, evaluation["examples_per_s"]), adapter["peak_memory_gb"]


def study_seconds(speed: ModelSpeed, cells: Sequence[Cell], model: str, data: Data) -> float:
    """Return the seconds that a study's cells on one data set take on a model."""
    work, counts = rows_read_by(cells, model, data.users, data.task), data.counts
    by_name = {cell.name: cell for cell in cells}
    # On a GPU every cell reads its items anew.
    readings = sum(
        cell.stage in READERS and model_of_cell(cell, by_name) == model for cell in cells
    )
    return speed.seconds(
        items=readings * counts.items,
        training=work["train"] * counts.train,
        prediction=work["validation"] * counts.validation + work["test"] * counts.test,
    )


def measured_rows() -> dict[str, Rows]:
    """Return the rows of the file of rates of each task."""
    return {
        task: json.loads((RESULTS / file).read_text(encoding="utf-8"))["rows"]
        for task, (file, _) in RATES.items()
    }


def model_speed(rows: Mapping[str, Rows], name: str, task: str) -> ModelSpeed:
    """Return the rates of a model with the default template of a task.

    They are those of the measured model of its family, scaled by the weights of the layers. Both
    orders read almost the same tokens of an item. Their runs read different numbers of items, and fixed
    costs weigh less in larger numbers, so the faster rate of reading items is used.
    """
    like = MODELS[name][2]
    speeds = {task: measured_speed(rows[task], like, way)[0] for task, (_, way) in RATES.items()}
    items = max(speed.items for speed in speeds.values())
    scale = weight_counts(like)[1] / weight_counts(name)[1]
    speed = speeds[task]
    return ModelSpeed(items * scale, speed.training * scale, speed.prediction * scale)


def table(rows: Mapping[str, Rows], sets: Sequence[Data]) -> str:
    """Return the table as Markdown, one row for each model. rows: by task.

    Memory is that of clicks, whose template takes more.
    """
    small = Options(datasets=("goodbooks",), seeds=(0,), source=SOURCE, target=TARGET, fixed=True)
    whole = Options(source=SOURCE, target=TARGET)
    head = [
        "model", "hub id", "parameters", "weights in bf16", "memory",
        "target, one seed", "source, one seed", "target, whole", "source, whole",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "| --- | --- |" + " ---: |" * (len(head) - 2)]
    study = get_study("table2")
    for name, (label, hub_id, like) in MODELS.items():
        _, memory = measured_speed(rows["click"], like, RATES["click"][1])
        parameters = weight_counts(name)[0]
        hours = [
            sum(
                study_seconds(model_speed(rows, name, data.task), cells, model, data)
                for data in sets
                if (cells := [cell for cell in made if cell.name.startswith(f"{data.name}/")])
            )
            / 3600
            for made in (study.cells(small), study.cells(whole))
            for model in (TARGET, SOURCE)
        ]
        estimated = "" if name == like else "*"
        cells = [
            f"{label}{estimated}",
            f"`{hub_id}`",
            f"{parameters / 1e9:.2f} B",
            f"{2 * parameters / 2**30:.1f} GiB",
            f"{memory:.0f} GB" if name == like else "–",
            *(_hours(value) for value in hours),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _hours(value: float) -> str:
    """Return hours with two digits, and below one hour minutes."""
    if value < 1:
        return f"{max(1, math.ceil(60 * value))} min"
    return f"{value:.1f} h" if value < 10 else f"{value:.0f} h"


def counted(name: str) -> Data:
    """Count a shipped data set."""
    dataset = load_shipped(name)
    return Data(name, dataset.task, len(dataset.users), DataCounts.of(dataset))


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="page to write into, between its marks")
    page = parser.parse_args().markdown
    made = table(measured_rows(), [counted(name) for name in Options().datasets])
    if page is None:
        print(made)
        return
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n{made}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
