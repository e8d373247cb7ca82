"""Training steps replayed as one CUDA graph: equal to steps of single kernels."""

import numpy as np
import pytest
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.migration.adapter_training import train_migration
from puma_engine.prompts.tuning import fit_prompts
from puma_engine.training.cuda_graphs import GraphCache

TRAINING = TrainingConfig(epochs=3, batch_size=64, learning_rate=5e-3, precision="fp32")


@pytest.mark.parametrize("template", ["rating-prompt-last", "rating-item-first", "rating"])
@pytest.mark.parametrize("trained", ["prompts", "adapter"])
def test_graphs_learn_the_same_as_single_kernels(template, trained, monkeypatch):
    data = load_shipped("movietweetings", users=12)

    def learn():
        model = FrozenBackbone.load("llama-small", device="cuda", precision="fp32")
        options = {"template": template, "training": TRAINING}
        source = fit_prompts(model, data, prompt=PromptConfig(item_tokens=1), **options)
        if trained == "prompts":
            return source
        torch.manual_seed(0)
        small = AdapterConfig(hidden=32, noise=0.1)
        return train_migration([source.table], model, data, adapter=small, **options)

    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(1), replay(graph))[1]
    )
    graphed = learn()
    count = len(replays)

    monkeypatch.setattr(GraphCache, "get", lambda cache, key, capture: None)
    single = learn()
    assert count > graphed.result.steps / 2 and len(replays) == count
    for graphed_epoch, single_epoch in zip(
        graphed.result.history, single.result.history, strict=True
    ):
        assert graphed_epoch["train_loss"] == pytest.approx(single_epoch["train_loss"], rel=1e-3)
        assert graphed_epoch["validation"] == pytest.approx(single_epoch["validation"], rel=1e-3)
    np.testing.assert_allclose(graphed.table.vectors, single.table.vectors, atol=2e-2)
