"""Settings that each method of `goodbooks_migration.py` may choose from, on validation rows."""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]
PATIENCE = 3


def prompts_with(
    rate: float, batch: int, decay: float, *, epochs: int = 10, **prompt: Any
) -> Settings:
    """Candidate settings of a prompt table."""
    training = _schedule(rate, batch, decay, epochs)
    return {"training": training, "prompt": {"start": "shared"} | prompt}


def adapter_with(rate: float, batch: int, *, epochs: int = 10, **adapter: float) -> Settings:
    """Candidate settings of an adapter."""
    training = _schedule(rate, batch, 0.01, epochs)
    return {"training": training, "adapter": {"hidden": 1024} | adapter}


def _schedule(rate: float, batch: int, decay: float, epochs: int) -> Settings:
    return {
        "learning_rate": rate,
        "batch_size": batch,
        "weight_decay": decay,
        "epochs": epochs,
        "patience": PATIENCE,
    }


CANDIDATES: dict[str, list[Settings]] = {
    "source": [
        prompts_with(1.5e-2, 1024, 0.1),
        prompts_with(1.5e-2, 1024, 0.0, epochs=20),
    ],
    "retrained": [
        prompts_with(1.5e-2, 1024, 0.3),
        prompts_with(3e-2, 1024, 0.3),
        prompts_with(1.5e-2, 1024, 1.0),
        prompts_with(1e-2, 512, 0.3),
    ],
    "puma_all": [
        adapter_with(1e-3, 1024, noise=0.2),
        adapter_with(1e-3, 256, noise=0.2),
        adapter_with(2e-3, 256, noise=0.2),
    ],
    "puma_few": [
        adapter_with(1e-3, 512, noise=0.3, epochs=4),
        adapter_with(1e-3, 256, noise=0.3, epochs=4),
        adapter_with(1e-3, 128, noise=0.3, epochs=3),
    ],
    "refined": [
        prompts_with(1e-3, 1024, 0.3, epochs=4),
        prompts_with(7e-3, 1024, 0.3, epochs=2),
    ],
    "retrained_items": [
        prompts_with(1.5e-2, 1024, 1.0, item_tokens=1),
        prompts_with(1.5e-2, 1024, 2.0, item_tokens=1),
    ],
    "refined_items": [
        prompts_with(1.5e-2, 1024, 1.0, epochs=6, item_tokens=1),
        prompts_with(1.5e-2, 1024, 2.0, epochs=6, item_tokens=1),
    ],
}
