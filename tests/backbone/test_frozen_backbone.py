"""Frozen backbones: cached and plain computation agree, and bad models are refused."""

import json
import weakref

import pytest
import torch
from tiny import FAMILIES, TOKENIZER_KINDS, plain_logits, tiny_backbone_folder, tiny_tokenizer

from puma_engine.backbone import Context, FrozenBackbone, Reader, inspect_backbone
from puma_engine.backbone.attention.kv_cache import CachedPrefix
from puma_engine.backbone.templates import TEMPLATES, Slot, Template, get_template
from puma_engine.backbone.tokens import clean_text, encode_template, text_encoder
from puma_engine.errors import BackboneError, DataError, TemplateError
from puma_engine.training.device import gc_paused

CONTEXTS = [
    Context("Dune by Frank Herbert"),
    Context("A"),
    Context("</s> <s> a title\u0007 of controls", ("Dune by Frank Herbert", "Emma")),
    Context("The Hobbit, or there and back again, by J. R. R. Tolkien " * 9, ("A",) * 40),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_prefix_equals_plain_computation(folder, family):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder, family), device="cpu")
    rows = torch.tensor([0, 1, 2, 3, 1, 0])
    for template in TEMPLATES.values():
        reader = Reader(backbone, template, CONTEXTS)
        uncached = Reader(backbone, template, CONTEXTS, cache_bytes=0)
        for tokens in (1, 4):
            prompts = torch.rand(len(rows), tokens, backbone.width) - 0.5
            actual = reader.logits(prompts, rows)
            assert actual.std() > 1e-3
            for side in ("left", "right"):
                expected = plain_logits(reader, prompts, rows, side)
                torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
            torch.testing.assert_close(uncached.logits(prompts, rows), actual, atol=1e-5, rtol=0)


def test_the_kv_cache_is_freed_with_its_reader(folder):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder, "llama"), device="cpu")
    with gc_paused():
        reader = Reader(backbone, get_template("rating-item-first"), CONTEXTS)
        reader.logits(torch.rand(2, 1, backbone.width), torch.tensor([0, 3]))
        assert reader.cached_tokens
        dropped = weakref.ref(reader)
        del reader
        assert dropped() is None


@pytest.mark.parametrize("template", TEMPLATES)
def test_gradient_reaches_the_prompt_and_nothing_else(folder, template):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder, "llama"), device="cpu")
    prompts = torch.zeros(2, 1, backbone.width, requires_grad=True)
    reader = Reader(backbone, get_template(template), CONTEXTS)
    reader.logits(prompts, torch.tensor([0, 3])).sum().backward()
    assert prompts.grad is not None and prompts.grad.abs().sum(dim=(1, 2)).min() > 0
    assert all(parameter.grad is None for parameter in backbone.model.parameters())


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=str)
def test_answers_follow_the_cue_in_every_kind_of_tokenizer(kind, template):
    tokenizer = tiny_tokenizer(kind)
    answers = ("1", "2", "3", "4", "5") if template.task == "rating" else ("Yes", "No")
    encoded = encode_template(tokenizer, template, answers)
    assert len(set(encoded.answers)) == len(answers)
    (cue,) = (piece for piece in encoded.pieces[-2:] if not isinstance(piece, Slot))
    for answer, token in zip(answers, encoded.answers, strict=True):
        text = tokenizer.decode([*cue, token]).strip()
        assert text.endswith(answer)
        assert tokenizer(f"{template.cue} {answer}")["input_ids"][-1] == token


def test_a_digit_alone_takes_two_tokens_where_a_space_is_prepended():
    tokenizer = tiny_tokenizer("metaspace-prefix")
    assert len(tokenizer("1", add_special_tokens=False)["input_ids"]) == 2
    for name in ("rating", "rating-prompt-last"):
        encoded = encode_template(tokenizer, get_template(name), ("1", "2", "3", "4", "5"))
        assert len(set(encoded.answers)) == 5


def test_special_token_text_in_a_title_stays_text():
    tokenizer = tiny_tokenizer("bytes-bos")
    (ids,) = text_encoder(tokenizer)(["a</s><s>b"])
    assert tokenizer.eos_token_id not in ids and tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids) == "a</s><s>b"


def test_long_titles_are_cut_but_never_the_cue(folder):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder, "llama"), device="cpu")
    long = [Context("word " * 2_000), Context("word " * 48)]
    for name in ("rating", "rating-item-first"):
        reader = Reader(backbone, get_template(name), long, item_tokens=20)
        prompts = torch.full((2, 1, backbone.width), 0.1)
        first, second = reader.logits(prompts, torch.tensor([0, 1]))
        torch.testing.assert_close(first, second)
        assert max(reader.lengths()) < 120


def test_control_characters_leave_a_title():
    assert clean_text("a\x00b\n\tc\u2028 d") == "a b c d"


def test_an_empty_title_is_refused(folder):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder, "llama"), device="cpu")
    with pytest.raises(DataError, match="empty text"):
        Reader(backbone, get_template("rating"), [Context(" \n ")])


@pytest.mark.parametrize(
    ("free", "min_rows", "max_rows"), [(2**14, 1, 1), (2**24, 2, 256), (2**27, 512, 512)]
)
def test_rows_per_batch_fit_into_a_share_of_free_memory(
    folder, monkeypatch, free, min_rows, max_rows
):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder, "llama"), device="cpu")
    monkeypatch.setattr("puma_engine.backbone.reader.free_bytes", lambda device: free)
    reader = Reader(backbone, get_template("rating-item-first"), CONTEXTS)
    rows = reader.max_batch(2)
    longest = torch.full((rows,), 3)
    reader.prepare(longest)
    before, _ = reader.widths(longest, 2)
    prefix = CachedPrefix(reader._cache, reader._before, reader._before_row[longest], before)
    copies = sum(t.numel() * t.element_size() for pair in prefix.gather()[0] for t in pair)
    assert rows == 1 or copies < free / 4
    assert min_rows <= rows <= max_rows


def test_a_template_that_does_not_fit_the_model_is_refused(folder):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder, "llama"), device="cpu")
    with pytest.raises(TemplateError, match="reads 512"):
        Reader(backbone, get_template("rating"), [Context("wor ld " * 900)], item_tokens=800)


@pytest.mark.parametrize(
    "pieces",
    [("a ", Slot.ITEM, " b"), (Slot.PROMPT, Slot.PROMPT, Slot.ITEM, "b"), (Slot.ITEM, Slot.PROMPT)],
)
def test_a_template_without_its_slots_or_cue_is_refused(pieces):
    with pytest.raises(TemplateError):
        Template("mine", "rating", pieces)


def test_a_folder_without_weights_is_refused(folder):
    path = tiny_backbone_folder(folder / "a", "llama")
    (path / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="no weights"):
        FrozenBackbone.load(path)


def test_missing_tensors_are_refused(folder):
    from safetensors.torch import load_file, save_file

    path = tiny_backbone_folder(folder / "b", "llama")
    tensors = load_file(path / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="lacks 1 of its weights"):
        FrozenBackbone.load(path)


def test_a_broken_config_is_refused(folder):
    path = tiny_backbone_folder(folder / "c", "llama")
    (path / "config.json").write_text("{")
    with pytest.raises(BackboneError, match="not valid JSON"):
        FrozenBackbone.load(path)


def test_unknown_names_are_refused():
    with pytest.raises(BackboneError, match="zoo name"):
        FrozenBackbone.load("./nowhere")


def test_a_tokenizer_without_digits_is_refused(folder):
    from tokenizers import Regex, normalizers

    path = tiny_backbone_folder(folder / "d", "gpt2")
    tokenizer = tiny_tokenizer("bytes-no-bos")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("[0-9]"), "#")
    tokenizer.save_pretrained(path)
    backbone = FrozenBackbone.load(path)
    with pytest.raises(BackboneError, match="one distinct token"):
        Reader(backbone, get_template("rating"), [Context("Dune")])


def test_inspection_shows_tokens_and_answers(folder):
    card = inspect_backbone(tiny_backbone_folder(folder / "e", "phi3"), device="cpu")
    rating = card["templates"]["rating"]
    assert list(rating["answer_tokens"]) == ["1", "2", "3", "4", "5"]
    assert rating["tokens"][0] == "<s>" and "<prompt>" in rating["tokens"]
    json.dumps(card)


def test_ffn_activations_depend_on_the_prompt_alone(folder):
    backbone = FrozenBackbone.load(tiny_backbone_folder(folder / "f", "qwen2"), device="cpu")
    prompts = torch.randn(5, 2, backbone.width)
    batched = backbone.ffn_activations(prompts)
    single = torch.cat([backbone.ffn_activations(prompt.unsqueeze(0)) for prompt in prompts])
    assert batched.shape == (5, 128) and torch.equal(batched, single)
    assert len({tuple(row.tolist()) for row in batched}) > 1
