"""The studies of the paper's figures: pairs of backbones, chains and fusions."""

from __future__ import annotations

from itertools import combinations

from puma_engine.studies.builder import Builder, each_dataset
from puma_engine.studies.cells import Needs

FAMILIES = ("llama-medium", "qwen2-small", "gemma3-small", "phi3-small", "stablelm-small")


@each_dataset
def figure4(build: Builder) -> None:
    """Gains of every ordered pair of five backbones over retraining on the second."""
    for seed in build.options.seeds:
        tables = build.each_retrained(FAMILIES, seed)
        for origin in FAMILIES:
            for target in FAMILIES:
                if origin == target:
                    continue
                name, needs = f"{origin} to {target}", {"sources": tables[origin]}
                moved = build.migrate(name, dict(needs), seed, None, target=target)
                facts = {"origin": origin, "target": target, "kind": "migrated"}
                build.evaluate(moved, method="migrated", seed=seed, **facts)


@each_dataset
def figure5(build: Builder) -> None:
    """A chain over five backbones, and the direct migration to each of its ends."""
    for seed in build.options.seeds:
        first, *rest = FAMILIES
        source = hop = build.prompts("source", first, seed, None)
        for place, target in enumerate(rest, start=1):
            again = build.prompts("retrained", target, seed, None)
            facts = {"target": target, "hops": 0, "kind": "retrained"}
            build.evaluate(again, method="retrained", seed=seed, **facts)
            direct = build.migrate(
                f"direct {target}", {"sources": source}, seed, None, target=target
            )
            facts = {"target": target, "hops": 1, "kind": "migrated"}
            build.evaluate(direct, method="direct", seed=seed, **facts)
            if place == 1:
                hop = direct
                continue
            hop = build.migrate(f"hop {place}", {"sources": hop}, seed, None, target=target)
            facts = {"target": target, "hops": place, "kind": "migrated"}
            build.evaluate(hop, method="chain", seed=seed, **facts)


@each_dataset
def figure6(build: Builder) -> None:
    """All single sources, pairs and triples of three backbones to a fourth."""
    target = "phi3-small"
    for seed in build.options.seeds:
        names = ("llama-medium", "qwen2-small", "stablelm-small")
        tables = {one: build.prompts("source", one, seed, None) for one in names}
        again = build.prompts("retrained", target, seed, None)
        build.evaluate(again, method="retrained", kind="retrained", sources=0, seed=seed)
        for count in (1, 2, 3):
            for some in combinations(names, count):
                needs: Needs = {"sources": [tables[one] for one in some]}
                label = " + ".join(some)
                moved = build.migrate(label, needs, seed, None, target=target)
                facts = {"kind": "migrated", "sources": count}
                build.evaluate(moved, method=label, seed=seed, **facts)
