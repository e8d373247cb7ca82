"""The plain reader of the benchmark gives the losses of the engine."""

import in_place_on_cpu  # noqa: F401
import pytest
import torch
from plain import PlainReader
from tiny import tiny_backbone_folder
from torch.utils.flop_counter import FlopCounterMode

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone import model as backbone_model
from puma_engine.backbone.attention.joint_linear import join_linears
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.migration.adapter import Adapter
from puma_engine.migration.adapter_training import AdaptedPrompts
from puma_engine.prompts.examples import ReaderData, reader_for
from puma_engine.prompts.tuning import PromptTuningModule, fit_prompts, make_head
from puma_engine.training.loop import train

STEPS, BATCH = 20, 32


def losses(data, backbone):
    """Loss of each step of adapter training, and the adapter's last weights."""
    generator = torch.Generator().manual_seed(1)
    network = Adapter(8, backbone.width, AdapterConfig(hidden=16, dropout=0.0), generator=generator)
    head = make_head(data.task, data.train, generator)
    sources = torch.randn(20, 1, 8, generator=generator)
    module = PromptTuningModule(data, AdaptedPrompts(sources, network), head)
    seen = []

    def forward(rows, inner=module.forward):
        value = inner(rows)
        seen.append(float(value.detach()) / len(rows))
        return value

    module.forward = forward
    config = TrainingConfig(epochs=20, batch_size=BATCH, learning_rate=1e-3, patience=0)
    train(module, STEPS * BATCH // 20, config)
    return torch.tensor(seen[:STEPS]), network.state_dict()


@pytest.mark.parametrize("template", ["rating", "rating-item-first", "rating-prompt-last"])
def test_training_has_the_losses_of_the_plain_reader(tmp_path, template, monkeypatch):
    backbone = FrozenBackbone.load(tiny_backbone_folder(tmp_path, "llama"), device="cpu")
    dataset = load_shipped("goodbooks", users=20)
    fast = reader_for(backbone, dataset, template, dataset.users)
    reader = PlainReader(fast.reader)
    slow = ReaderData(reader, fast.task, fast.train, fast.validation)
    actual, expected = losses(fast, backbone), losses(slow, backbone)
    assert len(actual[0]) == STEPS and actual[0][-5:].mean() < actual[0][:5].mean()
    torch.testing.assert_close(actual[0], expected[0], atol=1e-4, rtol=0)
    for name, weights in actual[1].items():
        torch.testing.assert_close(weights, expected[1][name], atol=1e-3, rtol=0)
    # Attention in place and joined parallel layers give the same.
    monkeypatch.setattr(backbone_model, "can_attend_in_place", lambda *_: True)
    join_linears(backbone.model.base_model)
    backbone.in_place = True
    in_place, _ = losses(fast, backbone)
    torch.testing.assert_close(in_place, expected[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("tokens", "epochs"), [(1, 1), (4, 2)])
def test_flops_equal_the_count_of_torch(tokens, epochs):
    dataset = load_shipped("movietweetings", users=4)
    backbone = FrozenBackbone.load("llama-small", device="cpu", precision="fp32")
    training = TrainingConfig(epochs=epochs, batch_size=64, patience=0)
    with FlopCounterMode(display=False) as counter:
        fitted = fit_prompts(
            backbone,
            dataset,
            template="rating",
            training=training,
            prompt=PromptConfig(tokens=tokens),
        )
    assert fitted.flops == pytest.approx(counter.get_total_flops(), rel=0.25)
