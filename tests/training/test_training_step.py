"""Losses that a CUDA graph can capture: equal to plain ones."""

import pytest
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.datasets import load_shipped
from puma_engine.prompts.examples import reader_for
from puma_engine.prompts.tuning import PromptEmbedding, PromptTuningModule, make_head
from puma_engine.training.step import Capturable

TEMPLATES = ("rating-item-first", "rating", "rating-prompt-last")


@pytest.fixture(scope="module")
def data():
    return load_shipped("movietweetings", users=12)


@pytest.fixture(scope="module")
def backbone():
    return FrozenBackbone.load("llama-small", device="cpu", precision="fp32")


def fitting(backbone, data, template):
    """Random user prompts of two tokens and item prompts of one."""
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
def test_the_capturable_loss_equals_the_plain_one(backbone, data, template):
    module = fitting(backbone, data, template)
    assert isinstance(module, Capturable)
    rows = torch.arange(3, 40)
    plain = module(rows)
    tables = [module.users.table, module.items.table]
    expected = torch.autograd.grad(plain, tables)
    loss = module(rows, module.widths(rows))
    torch.testing.assert_close(loss, plain)
    for actual, gradient in zip(torch.autograd.grad(loss, tables), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


def test_a_reader_that_recomputes_prefixes_is_not_captured(backbone, data, monkeypatch):
    monkeypatch.setattr("puma_engine.backbone.reader.CPU_CACHE_BYTES", 10)
    backbone.forget()
    module = fitting(backbone, data, TEMPLATES[0])
    assert module.data.reader.recomputes
    assert module.widths(torch.arange(4)) is None
    backbone.forget()  # frees memory for the reader of the next test
