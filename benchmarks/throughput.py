"""Examples a second of the plain implementation and of the engine with each order of a template's parts.

    python benchmarks/throughput.py --out benchmarks/results/throughput.json

On a GPU: random weights in the shapes of six published models. On a CPU: zoo models. The
implementations are `plain`, `paper` (the prompt before the item), `item_first` and `prompt_last`.
All are timed in this one run, on the same titles; `ratio_to_plain` divides by the plain one on the
same backbone and stage. `peak_share` divides the arithmetic that an implementation must do (counted
from its shapes) by the rate of a large matrix product in bf16 (on a CPU in the implementation's own
precision), measured here. Compiling and capturing are not part of the measured time, nor is reading
the texts before the slot, once for each distinct text: `prefixes` is their number, `prefix_seconds`
the time. With --profile, `profile` is the share of a training step's time that each group of GPU
kernels takes.

Under `accelerate launch --num_processes N` the trainings are shared by N GPUs: batches and rates are
those of all, `peak_share` is of all their peaks, memory of the first.
"""

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from plain import BATCH as PLAIN_BATCH
from plain import PlainReader
from provenance import provenance, write_results
from shapes import SHAPES, random_backbone

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.datasets import Dataset, load_shipped
from puma_engine.defaults import migration_defaults
from puma_engine.errors import Cancelled
from puma_engine.migration.adapter import Adapter
from puma_engine.migration.adapter_training import AdaptedPrompts
from puma_engine.prompts.examples import Examples, Prompts, ReaderData, predict_examples, reader_for
from puma_engine.prompts.tuning import PromptEmbedding, PromptModule, PromptTuningModule, make_head
from puma_engine.training import distributed
from puma_engine.training.device import resolve_device, resolve_precision, torch_dtype
from puma_engine.training.loop import Progress, epoch_batches, train
from puma_engine.training.step import TrainingStep

STAGES = ("adapter", "prompts", "evaluation")
TEMPLATES = {
    "plain": "rating",
    "paper": "rating",
    "item_first": "rating-item-first",
    "prompt_last": "rating-prompt-last",
}
LEAST_REPORTS = 6
# Words in the names of GPU kernels, by group; the first group that fits counts.
KERNELS = {
    "elementwise": ("triton_",),
    "attention": ("prefix_attention", "fmha", "flash"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "splitk"),
    "optimizer": ("adam", "multi_tensor", "lpnorm"),
    "copies": ("memcpy", "memset", "catarray", "copy"),
    "other": ("",),
}
PROFILED_STEPS = 3


@dataclass(frozen=True)
class Implementation:
    """One implementation on one backbone, plain or with an order of the template: its data and its settings."""

    name: str
    data: ReaderData
    precision: str
    prefixes: int = 0
    prefix_seconds: float = 0.0

    @property
    def backbone(self) -> FrozenBackbone:
        return self.data.reader.backbone


def adapter_shape(backbone: FrozenBackbone) -> tuple[int, AdapterConfig]:
    """Return the width of source prompts and the adapter: of the paper, or of the zoo for zoo models."""
    if backbone.info.spec in SHAPES:
        return 2048, AdapterConfig()
    return 128, migration_defaults("rating", 1000)[1]


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product of random numbers, the median of several."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / float(np.median(seconds[2:]))


def full_batches(data: ReaderData, batch: int) -> ReaderData:
    """Return the data with as many train rows as fill whole batches; few rows are repeated."""
    rows = torch.arange(max(1, len(data.train) // batch) * batch) % len(data.train)
    columns = (data.train.user, data.train.item, data.train.context, data.train.outcome)
    train = Examples(*(column[rows] for column in columns))
    return ReaderData(data.reader, data.task, train, data.validation)


def plain_part(data: ReaderData) -> ReaderData:
    """Return the data with a quarter of the train rows, since epochs of the plain implementation take long."""
    train = data.train
    rows = torch.arange(max(PLAIN_BATCH, len(train) // 4))
    columns = (column[rows] for column in (train.user, train.item, train.context, train.outcome))
    return ReaderData(data.reader, data.task, Examples(*columns), data.validation)


def training_config(implementation: Implementation, batch: int) -> TrainingConfig:
    """Return the training settings of an implementation."""
    precision = {"fp32": "auto", "fp8": "bf16"}.get(
        implementation.precision, implementation.precision
    )
    return TrainingConfig(epochs=1000, batch_size=batch, learning_rate=1e-4, precision=precision)  # type: ignore[arg-type]


def profile_step(
    module: torch.nn.Module, implementation: Implementation, batch: int
) -> dict[str, float]:
    """Return the milliseconds of a training step by group of GPU kernels; gaps have no kernel."""
    config = training_config(implementation, batch)
    precision = resolve_precision(config.precision, implementation.backbone.device)
    step = TrainingStep(module, module, config, precision, 1)
    batches = epoch_batches(
        len(implementation.data.train),
        batch,
        seed=0,
        epoch=0,
        lengths=implementation.data.train.lengths(implementation.data.reader),
    )

    def run(steps: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for number in range(steps):
            step(torch.from_numpy(batches[number % len(batches)]), batch, 1e-4)
        torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start) / steps

    # Every shape has its graph after two epochs.
    run(2 * len(batches) + 1)
    if step.graphs is not None and step.graphs.failure:
        print(f"No CUDA graph: {step.graphs.failure}", file=sys.stderr)
    # A profile slows the host down, so that the gaps come from a run without one.
    wall = run(PROFILED_STEPS)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(PROFILED_STEPS)
    groups = dict.fromkeys(KERNELS, 0.0)
    for kernel in profile.key_averages():
        name = kernel.key.lower()
        group = next(group for group, words in KERNELS.items() if any(w in name for w in words))
        groups[group] += kernel.self_device_time_total / 1000 / PROFILED_STEPS
    groups["gaps"] = max(0.0, wall - sum(groups.values()))
    return {"step": round(wall, 2)} | {name: round(ms, 2) for name, ms in groups.items()}


def training_rate(
    module: torch.nn.Module, implementation: Implementation, batch: int, seconds: float
) -> float:
    """Return the examples a second of our training loop after warming up.

    On a GPU every shape of a batch must have occurred once, or twice with CUDA graphs, so two or
    four epochs warm up.
    """
    seen: list[tuple[float, int]] = []
    epochs = 2 if implementation.name == "plain" else 4
    warm = (
        epochs * len(implementation.data.train) // batch
        if implementation.backbone.device.type == "cuda"
        else 3
    )

    def progress(report: Progress) -> None:
        if report.step >= warm:
            seen.append((time.monotonic(), report.step))

    def is_enough() -> bool:
        return len(seen) >= LEAST_REPORTS and time.monotonic() - seen[0][0] > seconds

    config = training_config(implementation, batch)
    with contextlib.suppress(Cancelled):
        train(
            module,
            len(implementation.data.train),
            config,
            lengths=implementation.data.train.lengths(implementation.data.reader),
            progress=progress,
            should_cancel=is_enough,
        )
    if not distributed.is_main_process():
        return float("nan")
    (start, first), (end, last) = seen[0], seen[-1]
    return (last - first) * batch / (end - start)


def evaluation_rate(prompts: Prompts, head: Any, implementation: Implementation) -> float:
    """Return the examples a second of predicting train rows, the best of four passes.

    The plain implementation predicts a tenth of them.
    """
    every, rates = implementation.data.train, []
    rows = max(PLAIN_BATCH, len(every) // 10) if implementation.name == "plain" else len(every)
    cut = slice(rows)
    part = Examples(every.user[cut], every.item[cut], every.context[cut], every.outcome[cut])
    for _ in range(4):
        start = time.perf_counter()
        predict_examples(implementation.data.reader, implementation.data.task, part, prompts, head)
        rates.append(rows / (time.perf_counter() - start))
    return max(rates)


def rate_of(
    stage: str, implementation: Implementation, batch: int, users: int, options: Any
) -> tuple[float, dict[str, float]]:
    """Return the examples a second of one stage of one implementation, and its profile if one is wanted."""
    generator = torch.Generator().manual_seed(0)
    backbone = implementation.backbone
    head = make_head(implementation.data.task, implementation.data.train, generator).to(
        backbone.device
    )
    if stage == "adapter":
        width, config = adapter_shape(backbone)
        sources = torch.randn(users, 1, width, generator=generator)
        network = Adapter(width, backbone.width, config, generator=generator)
        prompts: PromptModule = AdaptedPrompts(sources, network)
    else:
        base = torch.rand(1, 1, backbone.width, generator=generator) * 0.2 - 0.1
        prompts = PromptEmbedding(base, users)
    if stage != "evaluation":
        data = (
            plain_part(implementation.data)
            if implementation.name == "plain"
            else implementation.data
        )
        implementation = replace(implementation, data=full_batches(data, batch))
    module = PromptTuningModule(implementation.data, prompts, head).to(backbone.device)
    if stage == "evaluation":
        return evaluation_rate(module.prompts, head, implementation), {}
    rate = training_rate(module, implementation, batch, options.seconds)
    wanted = options.profile and implementation.name != "plain"
    return rate, profile_step(module, implementation, batch) if wanted else {}


def work_of(stage: str, implementation: Implementation) -> dict[str, float]:
    """Return the mean tokens, computed positions, and FLOPs of an example."""
    reader, config = (
        implementation.data.reader,
        implementation.backbone.model.config.get_text_config(),
    )
    weights = implementation.backbone.layer_weights
    lengths = implementation.data.train.context.unique().tolist()
    fast = reader.inner if isinstance(reader, PlainReader) else reader
    sequences = [fast.sequence(row) for row in lengths]
    tokens = float(np.mean([len(b) + 1 + len(a) for b, a in sequences]))
    positions = float(np.mean([1 + len(a) for _, a in sequences]))
    passes = 1 if stage == "evaluation" else 2
    if implementation.name == "plain":
        positions = tokens
        flops = 2 * tokens * (weights * passes + config.hidden_size * config.vocab_size * passes)
    else:
        flops = 2 * positions * weights * passes
    if stage == "adapter":
        source, shape = adapter_shape(implementation.backbone)
        network = Adapter(source, implementation.backbone.width, shape)
        flops += 6 * sum(p.numel() for p in network.parameters())
    return {"tokens": tokens, "positions": positions, "gflops": flops / 1e9}


def backbone_for(name: str, device: torch.device, precision: str) -> FrozenBackbone:
    """Return a zoo model, or a published shape with random weights; large ones are compiled."""
    if name not in SHAPES:
        return FrozenBackbone.load(name, device=str(device), precision=precision)
    dtype = torch_dtype("bf16" if precision == "fp8" else precision)
    backbone = random_backbone(name, device, dtype)
    if precision in ("bf16", "fp8"):
        backbone.compile_layers(fp8=precision == "fp8")
    return backbone


def implementations(
    name: str, dataset: Dataset, device: torch.device, options: Any
) -> Iterator[Implementation]:
    """Yield the implementations to time, one after the other, so that only one backbone takes memory."""
    gpu = device.type == "cuda"
    slow = "fp16" if gpu else "fp32"
    backbone = backbone_for(name, device, slow)
    backbone.model.set_attn_implementation("sdpa")
    data = reader_for(backbone, dataset, TEMPLATES["plain"], dataset.users)
    reader: Any = PlainReader(data.reader)
    yield Implementation("plain", ReaderData(reader, data.task, data.train, data.validation), slow)
    del backbone, data, reader
    for precision in options.precisions or (["bf16", "fp8"] if gpu else ["fp32", "bf16"]):
        free_memory(device)
        backbone = backbone_for(name, device, precision)
        for order in options.ways:
            backbone.forget()
            free_memory(device)
            start = time.perf_counter()
            data = reader_for(backbone, dataset, TEMPLATES[order], dataset.users)
            if gpu:
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            texts = {tuple(data.reader.sequence(row)[0]) for row in range(len(data.reader))}
            yield Implementation(order, data, precision, len(texts), round(seconds, 2))
            del data
        del backbone


def measure(
    name: str, dataset: Dataset, device: torch.device, options: Any
) -> Iterator[dict[str, Any]]:
    """Time every stage of every implementation on one backbone, training at every batch size."""
    plain: dict[str, float] = {}
    for implementation in implementations(name, dataset, device, options):
        for stage in options.stages:
            sizes = options.batch
            if implementation.name in ("item_first", "prompt_last"):
                sizes = options.item_batch or sizes
            if stage == "evaluation":
                sizes = sizes[:1]  # predicting takes as many rows as fit, and is timed once
            for batch in [PLAIN_BATCH] if implementation.name == "plain" else sizes:
                free_memory(device)
                rate, profile = rate_of(stage, implementation, batch, len(dataset.users), options)
                plain.setdefault(stage, rate)
                work = work_of(stage, implementation)
                fp32 = device.type == "cpu" and implementation.precision == "fp32"
                peak = options.peaks["fp32" if fp32 else "bf16"] * distributed.world_size()
                row = {"device": device_label(device), "backbone": name, "stage": stage}
                row |= {
                    "way": implementation.name,
                    "precision": implementation.precision,
                    "batch": batch,
                }
                row |= {"examples_per_s": round(rate, 1)}
                row |= {"ratio_to_plain": round(rate / plain[stage], 3)}
                row |= {key: round(value, 3) for key, value in work.items()}
                row |= {"peak_share": round(rate * work["gflops"] * 1e9 / peak, 4)}
                row |= {"peak_memory_gb": round(memory(device), 2)}
                row |= {
                    "prefixes": implementation.prefixes,
                    "prefix_seconds": implementation.prefix_seconds,
                }
                row |= {"profile": profile} if profile else {}
                yield row


def free_memory(device: torch.device) -> None:
    """Free the memory of earlier measurements, so that the next peak is measured alone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(device: torch.device) -> float:
    """Return the peak memory in GB, allocated on the GPU or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return psutil.Process().memory_info().rss / 1e9


def device_label(device: torch.device) -> str:
    """Return a GPU's product name, or "cpu" with its threads, and the number of processes."""
    name = f"cpu, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return name if distributed.world_size() == 1 else f"{distributed.world_size()} x {name}"


def main() -> None:
    """Parse the command line, measure, and write after each backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device")
    parser.add_argument("--backbones", nargs="+", help="zoo names or shapes (default by device)")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[256], help="of the engine's implementations"
    )
    parser.add_argument(
        "--item-batch",
        type=int,
        nargs="+",
        help="of item_first and prompt_last, if others than --batch",
    )
    orders = [name for name in TEMPLATES if name != "plain"]
    parser.add_argument("--ways", nargs="+", default=orders, choices=orders)
    parser.add_argument("--profile", action="store_true", help="of training steps, on a GPU")
    parser.add_argument(
        "--precisions", nargs="+", help="of the engine's implementations (default by device)"
    )
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each training")
    options = parser.parse_args()
    device = torch.device(distributed.local_device(resolve_device(options.device)))
    gpu = device.type == "cuda"
    options.profile &= gpu
    if distributed.world_size() > 1:
        options.stages = [stage for stage in options.stages if stage != "evaluation"]
    names = options.backbones or (list(SHAPES) if gpu else ["llama-medium"])
    dtypes = {"bf16": torch.bfloat16} | ({} if gpu else {"fp32": torch.float32})
    options.peaks = {name: measured_peak(device, dtype) for name, dtype in dtypes.items()}
    dataset = load_shipped("goodbooks", users=options.users)
    for name in names:
        rows = []
        # Written after each row, so that a run that is stopped loses none.
        for row in measure(name, dataset, device, options):
            rows.append(row)
            if distributed.is_main_process():
                print(json.dumps(row), file=sys.stderr, flush=True)
                write(options.out, device_label(device), name, rows, options.peaks)
    distributed.shutdown()


def write(
    path: Path, device: str, name: str, rows: list[dict[str, Any]], peaks: dict[str, float]
) -> None:
    """Write the measurements on a backbone; others in the file are kept."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rates = {kind: round(peak / 1e12, 3) for kind, peak in peaks.items()}
    run = {"device": device, "backbone": name, **provenance(), "measured_peak_tflops": rates}

    def others(part: str) -> list[dict[str, Any]]:
        entries = known.get(part, [])
        return [e for e in entries if (e["device"], e["backbone"]) != (device, name)]

    write_results(path, {"runs": [*others("runs"), run], "rows": [*others("rows"), *rows]})


if __name__ == "__main__":
    main()
