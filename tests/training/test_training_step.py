"""Steps whose loss never waits for the device, and steps replayed as one CUDA graph."""

import numpy as np
import pytest
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.migration.adapter_training import train_migration
from puma_engine.prompts.examples import reader_for
from puma_engine.prompts.tuning import PromptEmbedding, PromptTuningModule, fit_prompts, make_head
from puma_engine.training.step import Stepped, Stepper

TEMPLATES = ("rating-item-first", "rating")


@pytest.fixture(scope="module")
def data():
    return load_shipped("movietweetings", users=12)


@pytest.fixture(scope="module")
def backbone():
    return FrozenBackbone.load("llama-small", device="cpu", precision="fp32")


def fitting(backbone, data, template):
    """Users' and items' prompts of two tokens and one, drawn anew."""
    read = reader_for(backbone, data, template, data.users)
    generator = torch.Generator().manual_seed(1)
    users = PromptEmbedding(
        torch.rand((len(data.users), 2, backbone.width), generator=generator), len(data.users)
    )
    items = PromptEmbedding(
        torch.rand((1, 1, backbone.width), generator=generator), len(data.items) + 1
    )
    return PromptTuningModule(read, users, make_head(read.task, read.train, generator), items)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_loss_without_waiting_is_the_plain_one(backbone, data, template):
    module = fitting(backbone, data, template)
    assert isinstance(module, Stepped)
    rows = torch.arange(3, 40)
    plain = module(rows)
    wanted = torch.autograd.grad(plain, [module.users.table, module.items.table])
    shape = module.shape(rows)
    there = module.loss_at(rows, shape)
    found = torch.autograd.grad(there, [module.users.table, module.items.table])
    torch.testing.assert_close(there, plain)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_reader_that_runs_prefixes_anew_must_wait(backbone, data, monkeypatch):
    monkeypatch.setattr("puma_engine.backbone.reader.CPU_CACHE_BYTES", 10)
    backbone.forget()
    module = fitting(backbone, data, TEMPLATES[0])
    assert module.data.reader.waits
    assert module.shape(torch.arange(4)) is None
    backbone.forget()  # the next test's reader has room again


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
TRAINING = TrainingConfig(epochs=3, batch_size=64, learning_rate=5e-3, precision="fp32")


@needs_gpu
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("what", ["prompts", "adapter"])
def test_graphs_learn_what_single_kernels_do(data, template, what, monkeypatch):
    def learn():
        model = FrozenBackbone.load("llama-small", device="cuda", precision="fp32")
        how = {"template": template, "training": TRAINING}
        source = fit_prompts(model, data, prompt=PromptConfig(item_tokens=1), **how)
        if what == "prompts":
            return source
        torch.manual_seed(0)
        small = AdapterConfig(hidden=32, noise=0.1)
        return train_migration([source.table], model, data, adapter=small, **how)

    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(1), replay(graph))[1]
    )
    graphed = learn()
    count = len(replays)
    was = Stepper.__init__

    def plain(stepper, *given):
        was(stepper, *given)
        stepper.graphs = None

    monkeypatch.setattr(Stepper, "__init__", plain)
    monkeypatch.setattr(
        "puma_engine.backbone.attention.cuda_graphs.GraphedCalls.__call__", call_plainly
    )
    single = learn()
    assert count > graphed.result.steps / 2
    for one, other in zip(graphed.result.history, single.result.history, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
        assert one["validation"] == pytest.approx(other["validation"], rel=1e-3)
    np.testing.assert_allclose(graphed.table.vectors, single.table.vectors, atol=2e-2)


def call_plainly(_calls, function, *arguments, shape=()):
    return function(*arguments, shape=shape)
