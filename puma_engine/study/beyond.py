"""Studies beyond the paper: templates, prompt lengths and adapter sizes."""

from __future__ import annotations

from typing import Any

from puma_engine.study.building import Builder
from puma_engine.study.cells import Cell, Options

CLICKS = "goodbooks-to-read"
LENGTHS = (1, 2, 4, 8)
ADAPTERS = {
    "hidden 64": {"hidden": 64},
    "hidden 256": {"hidden": 256},
    "hidden 1024": {"hidden": 1024},
    "hidden 2048": {"hidden": 2048},
    "hidden 1024, depth 2": {"hidden": 1024, "depth": 2},
    "hidden 1024, depth 6": {"hidden": 1024, "depth": 6},
}


def templates(options: Options) -> list[Cell]:
    """Prompt before the item, as in the paper, against the item first, on the target."""
    cells: list[Cell] = []
    for dataset in options.datasets:
        build = Builder(options, dataset)
        first = "click" if dataset == CLICKS else "rating"
        for seed in options.seeds:
            for template, method in (
                (first, "prompt first"),
                (f"{first}-item-first", "item first"),
            ):
                settings = {"backbone": options.target, "role": "retrained", "seed": seed}
                fitted = build.add(
                    f"{method} {seed}",
                    "fit_prompts",
                    settings | {"template": template},
                    {"dataset": build.data},
                )
                build.evaluate(fitted, method=method, kind="retrained", seed=seed)
        cells += build.cells
    return cells


def lengths(options: Options) -> list[Cell]:
    """Soft prompts of 1, 2, 4 and 8 tokens: source, full retraining, and PUMA on all users."""
    cells: list[Cell] = []
    for dataset in options.datasets:
        build = Builder(options, dataset)
        for seed in options.seeds:
            for tokens in LENGTHS:
                tables = {
                    role: _fitted(build, role, backbone, seed, tokens)
                    for role, backbone in (
                        ("source", options.source),
                        ("retrained", options.target),
                    )
                }
                moved = build.migrate(f"{tokens} tokens", {"sources": tables["source"]}, seed, None)
                for kind, table in (tables | {"migrated": moved}).items():
                    method = {"migrated": "PUMA, all users"}.get(kind, kind)
                    build.evaluate(table, method=method, kind=kind, tokens=tokens, seed=seed)
        cells += build.cells
    return cells


def _fitted(build: Builder, role: str, backbone: str, seed: int, tokens: int) -> str:
    settings: dict[str, Any] = {"backbone": backbone, "role": role, "seed": seed}
    name, needs = f"{role} {tokens} tokens {seed}", {"dataset": build.data}
    return build.add(name, "fit_prompts", settings | {"prompt": {"tokens": tokens}}, dict(needs))


def adapters(options: Options) -> list[Cell]:
    """Adapters of other widths and depths, trained on all users."""
    cells: list[Cell] = []
    for dataset in options.datasets:
        build = Builder(options, dataset)
        for seed, source in build.sources(None).items():
            for method, shape in ADAPTERS.items():
                moved = build.migrate(method, {"sources": source}, seed, None, adapter=shape)
                build.evaluate(moved, method=method, kind="migrated", seed=seed)
        cells += build.cells
    return cells
