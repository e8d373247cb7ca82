"""PUMA: move personal soft prompts from one language model to another without starting over.

A migration in a few lines:

    from puma_engine import Workbench

    bench = Workbench("workspace", create=True)
    books = bench.import_dataset("goodbooks", users=600)
    source = bench.fit_prompts(books, "llama-small")
    moved = bench.migrate(source, "llama-medium", strategy="kmeans-variance", budget=60)
    print(bench.evaluate(moved).summary["metrics"])

Importing this package loads no torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from puma_engine.version import __version__

if TYPE_CHECKING:
    from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
    from puma_engine.errors import PumaError
    from puma_engine.store import Run, Workspace
    from puma_engine.workbench import Workbench

# Requests to the hub carry the name of a model and no usage data.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_HOMES = {
    "AdapterConfig": "puma_engine.config",
    "PromptConfig": "puma_engine.config",
    "TrainingConfig": "puma_engine.config",
    "PumaError": "puma_engine.errors",
    "Run": "puma_engine.store",
    "Workspace": "puma_engine.store",
    "Workbench": "puma_engine.workbench",
}
__all__ = [
    "AdapterConfig",
    "PromptConfig",
    "PumaError",
    "Run",
    "TrainingConfig",
    "Workbench",
    "Workspace",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name == "whatif":  # deprecated name of the module
        return importlib.import_module("puma_engine.serving.whatif")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
