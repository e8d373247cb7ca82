"""Selections as runs: the default strategy follows the task."""

import compared
import numpy as np
import pytest

from puma_engine import pipeline
from puma_engine.files import save_tensors
from puma_engine.store import Workspace


@pytest.mark.parametrize(
    ("task", "expected"), [("rating", "facility"), ("click", "kmeans-variance")]
)
def test_the_default_strategy_follows_the_task(tmp_path, task, expected):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = compared.import_data(ws, tmp_path, task)
    users = pipeline.load_dataset(ws, data).users
    vectors = np.random.default_rng(0).normal(size=(len(users), 1, 128)).astype(np.float32)
    save_tensors(tmp_path / "p.safetensors", {"vectors": vectors}, {"user_ids": list(users)})
    table = tmp_path / "p.safetensors"
    source = pipeline.import_prompts(ws, data, "llama-small", table, head="none", device="cpu")
    selection = pipeline.select(ws, source, budget=12)
    assert selection.config["strategy"] == expected
    assert pipeline.select(ws, source, budget=12, strategy=expected).id == selection.id
