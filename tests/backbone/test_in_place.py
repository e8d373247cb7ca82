"""Attention in place: equal to attention over copies of the cached keys and values."""

import in_place_on_cpu  # noqa: F401
import pytest
import torch

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone import model as backbone_model
from puma_engine.backbone.attention import compiled_layers
from puma_engine.backbone.attention.joint_linear import FirstPart, join_linears
from puma_engine.backbone.attention.kv_cache import RaggedTensor
from puma_engine.backbone.templates import get_template

CONTEXTS = [Context("Dune by Frank Herbert"), Context("Emma"), Context("A history of all " * 6)]
ROWS = torch.tensor([0, 1, 2, 0, 0, 1, 0])
TEMPLATES = ("rating-prompt-last", "rating-item-first", "rating")
MODELS = ("llama-small", "gemma3-small", "phi3-small", "qwen2-small", "stablelm-small")


def load(name):
    return FrozenBackbone.load(name, device="cpu", precision="fp32")


def logits_and_gradient(backbone, template, tokens=1, contexts=CONTEXTS):
    generator = torch.Generator().manual_seed(0)
    prompts = torch.rand(len(ROWS), tokens, backbone.width, generator=generator) - 0.5
    prompts.requires_grad_()
    logits = Reader(backbone, get_template(template), contexts).logits(prompts, ROWS)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), prompts)[0]


def assert_close(actual, expected):
    for part, other in zip(actual, expected, strict=True):
        assert (part - other).norm() <= 2e-5 * other.norm()


@pytest.fixture
def in_place(monkeypatch):
    """A function that switches a backbone to attention in place, on a CPU too."""

    def switch(backbone):
        monkeypatch.setattr(backbone_model, "can_attend_in_place", lambda *_: True)
        assert not backbone.in_place
        backbone.in_place = True

    return switch


@pytest.mark.parametrize("name", MODELS)
def test_every_family_computes_the_same_in_place_and_with_joined_layers(name, in_place):
    backbone = load(name)
    calls = [(template, tokens) for template in TEMPLATES for tokens in (1, 3)]
    expected = [logits_and_gradient(backbone, *call) for call in calls]
    in_place(backbone)
    for call, known in zip(calls, expected, strict=True):
        assert_close(logits_and_gradient(backbone, *call), known)
    separate = join_linears(backbone.model.base_model)
    joined = [m for m in backbone.model.modules() if isinstance(m, FirstPart)]
    assert len(joined) == (0 if name == "phi3-small" else 2 * backbone.info.layers)
    for call, known in zip(calls, expected, strict=True):
        assert_close(logits_and_gradient(backbone, *call), known)
    separate()
    assert not any(isinstance(m, FirstPart) for m in backbone.model.modules())
    assert_close(logits_and_gradient(backbone, *calls[0]), expected[0])


def test_whole_layers_compile_without_a_break_once_for_all_layers_but_the_last(
    in_place, monkeypatch
):
    backbone = load("llama-small")
    expected = logits_and_gradient(backbone, "rating-prompt-last")
    in_place(backbone)
    join_linears(backbone.model.base_model)
    run = torch.compile(
        compiled_layers.run_module, backend="aot_eager", dynamic=True, fullgraph=True
    )
    monkeypatch.setattr(compiled_layers, "_compiled_run_module", lambda: run)
    backbone.compiled = True
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert_close(logits_and_gradient(backbone, "rating-prompt-last"), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 < backbone.info.layers
    # Further items need no new compilation.
    longer = [*CONTEXTS[:1], Context("The longest title of all " * 3), *CONTEXTS[1:]]
    logits_and_gradient(backbone, "rating-prompt-last", contexts=longer)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_texts_longer_than_a_sliding_window_are_gathered(in_place):
    backbone = load("llama-small")
    in_place(backbone)
    assert backbone.reads_in_place(1, 40) and not backbone.reads_in_place(1, 0)
    backbone._window = 40
    assert backbone.reads_in_place(1, 39) and not backbone.reads_in_place(1, 40)


@pytest.mark.parametrize(
    ("rows", "common"),
    [([[1, 2, 3], [1, 2]], 2), ([[1, 2], [3]], 0), ([[4, 5]], 2), ([[], [1]], 0), ([[7], [7]], 1)],
)
def test_tokens_that_all_rows_begin_with_are_stored_once(rows, common):
    packed = RaggedTensor.pack(rows, torch.device("cpu"), share=True)
    assert packed.common == common
    assert len(packed.ids) == sum(map(len, rows)) - common * (len(rows) - 1)
    assert packed.lengths.tolist() == [len(row) for row in rows]
    indices = torch.arange(len(rows))
    for texts, numbers in ((packed, indices), (packed.take(indices.flip(0)), indices.flip(0))):
        assert [texts.row(at) for at in range(len(rows))] == [rows[n] for n in numbers]
        for left in (True, False):
            index, exists = texts.index(indices, 4, left=left)
            assert [texts.ids[i][e].tolist() for i, e in zip(index, exists, strict=True)] == [
                rows[n] for n in numbers
            ]


def test_prefixes_with_a_common_beginning_have_the_keys_of_separate_texts():
    backbone = load("llama-small")
    rows = [[1, 9, 8, 7], [1, 9, 3], [1, 9]]
    indices = torch.arange(len(rows))
    caches = []
    for share in (True, False):
        texts = RaggedTensor.pack(rows, torch.device("cpu"), share=share)
        cache = backbone.prefix(texts, indices, backbone_model.KVCache())
        index, exists = texts.index(indices, 4, left=False)
        pairs = cache.gather(index)
        caches.append([part[exists[:, None].expand_as(part[..., 0])] for p in pairs for part in p])
    for shared, separate in zip(*caches, strict=True):
        torch.testing.assert_close(shared, separate)
