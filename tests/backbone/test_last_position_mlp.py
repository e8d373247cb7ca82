"""The last feed-forward layer is computed only at positions whose result is used."""

import pytest
import torch
from tiny import plain_logits, tiny_backbone_folder

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.attention.last_position_mlp import (
    LastPositionMLP,
    wrap_last_mlp,
)
from puma_engine.backbone.templates import get_template

FAMILIES = ("llama", "qwen2", "gemma3", "phi3", "stablelm")


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request, tmp_path_factory):
    folder = tiny_backbone_folder(tmp_path_factory.mktemp(request.param), request.param)
    return FrozenBackbone.load(folder, device="cpu")


def test_every_family_uses_grouped_attention(backbone):
    assert backbone.model.config._attn_implementation == "puma_grouped"


def test_a_module_with_further_arguments_gives_the_logits_of_the_plain_model(tmp_path):
    bloom = FrozenBackbone.load(tiny_backbone_folder(tmp_path, "bloom"), device="cpu")
    assert isinstance(bloom.last_mlp, LastPositionMLP)
    reader = Reader(bloom, get_template("rating"), [Context("Emma"), Context("Dune by Herbert")])
    prompts, rows = torch.rand(2, 1, bloom.width) - 0.5, torch.tensor([1, 0])
    expected = plain_logits(reader, prompts, rows, "right")
    torch.testing.assert_close(reader.logits(prompts, rows), expected, atol=1e-4, rtol=0)


def positions_of(backbone, work):
    """Numbers of positions that the wrapped module computes, one per call."""
    counts = []
    hook = backbone.last_mlp.inner.register_forward_pre_hook(
        lambda _m, x: counts.append(x[0].shape[1])
    )
    work()
    hook.remove()
    return counts


def test_the_last_mlp_computes_one_position_for_answers_and_none_for_prefixes(backbone):
    assert isinstance(backbone.last_mlp, LastPositionMLP)
    embeddings = torch.randn(3, 6, backbone.width)
    lengths = torch.tensor([6, 2, 4])
    assert positions_of(backbone, lambda: backbone.last_hidden(embeddings, lengths)) == [1]
    assert positions_of(backbone, lambda: backbone._run_prefix(torch.tensor([[3, 4, 5]]), [])) == []
    ids = torch.tensor([[3, 4, 5]])
    assert positions_of(backbone, lambda: backbone.model(input_ids=ids)) == [3]


def test_hidden_states_and_gradients_equal_those_of_the_full_layer(backbone):
    embeddings = torch.randn(3, 6, backbone.width, requires_grad=True)
    lengths = torch.tensor([6, 2, 4])
    d_hidden = torch.randn(3, backbone.width)

    def both():
        hidden = backbone.last_hidden(embeddings, lengths)
        return hidden, torch.autograd.grad((hidden * d_hidden).sum(), embeddings)[0]

    last_only = both()
    last_mlp, backbone.last_mlp = backbone.last_mlp, None
    complete = both()
    backbone.last_mlp = last_mlp
    for actual, expected in zip(last_only, complete, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_a_decoder_without_such_a_module_is_not_wrapped():
    assert wrap_last_mlp(torch.nn.Linear(2, 2)) is None
