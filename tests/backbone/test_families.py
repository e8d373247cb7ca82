"""Every family's real class with every kind of tokenizer, for both tasks."""

import functools

import pytest
import torch
from tiny import FAMILIES, plain_logits, tiny_model, tiny_tokenizer

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.compatibility import describe_templates
from puma_engine.backbone.loading import Source, describe
from puma_engine.backbone.templates import Slot, get_template
from puma_engine.backbone.tokens import start_ids, text_encoder

VOCABULARY = 704
KINDS = (
    "bytes-bos",
    "bytes-no-bos",
    "metaspace",
    "metaspace-prefix",
    "added-specials",
    "bos-is-eos",
    "pad-is-eos",
    "chat-template",
)
TEMPLATE_OF = {
    "rating": ("rating", "rating-item-first", "rating-prompt-last"),
    "click": ("click-history", "click-item-first", "click-history-prompt-last"),
}
CONTEXTS = [
    Context("Dune by Frank Herbert"),
    Context("A <|user|> 5 </s>", ("Emma", "Dune by Frank Herbert")),
]


@functools.cache
def tokenizer_of(kind):
    base = {"added-specials": "metaspace-prefix", "pad-is-eos": "bytes-no-bos"}
    tokenizer = tiny_tokenizer(base.get(kind, kind if kind in KINDS[:4] else "bytes-bos"))
    if kind == "added-specials":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
        tokenizer.add_tokens(["Herbert by"])
    if kind == "bos-is-eos":
        tokenizer.eos_token = tokenizer.bos_token
    if kind == "pad-is-eos":
        tokenizer.pad_token = tokenizer.eos_token
    if kind == "chat-template":
        tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
    return tokenizer


@functools.cache
def backbone_of(family, kind):
    tokenizer, model = tokenizer_of(kind), tiny_model(family, VOCABULARY).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    starts = tuple(tokenizer.convert_ids_to_tokens(start_ids(tokenizer)))
    return FrozenBackbone(model, tokenizer, describe(Source("tiny", None), model, "fp32", starts))


@pytest.mark.parametrize("task", TEMPLATE_OF)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_the_plain_model_and_gradients_reach_the_prompt(family, kind, task):
    backbone = backbone_of(family, kind)
    rows = torch.tensor([1, 0, 1])
    for name in TEMPLATE_OF[task]:
        reader = Reader(backbone, get_template(name), CONTEXTS)
        prompts = (torch.rand(3, 2, backbone.width) - 0.5).requires_grad_()
        actual = reader.logits(prompts, rows)
        assert actual.shape == (3, len(reader.task.answers)) and actual.std() > 1e-3
        expected = plain_logits(reader, prompts, rows, "right")
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
        (gradient,) = torch.autograd.grad(actual.sum(), prompts)
        (plain,) = torch.autograd.grad(expected.sum(), prompts)
        # Gemma's window may hide the prompt of a long title, but never of every row.
        assert gradient.abs().sum(dim=2).max() > 0
        torch.testing.assert_close(gradient, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_shows_each_template_as_the_model_reads_it(kind):
    backbone = backbone_of("llama", kind)
    tokenizer = backbone.tokenizer
    for name, card in describe_templates(backbone).items():
        template, tokens = get_template(name), card["tokens"]
        assert tokens.index("<prompt>") == card["slot_position"] > 0
        assert tokens.count("<prompt>") == 1
        ids = tokenizer.convert_tokens_to_ids(tokens[card["slot_position"] + 1 :])
        after = [piece for piece in template.after if isinstance(piece, str)]
        text = tokenizer.decode(ids).replace(" ", "")
        assert all(piece.replace(" ", "") in text for piece in after)
        for answer, token in card["answer_tokens"].items():
            assert tokenizer.convert_tokens_to_string([token]).strip() == answer


def test_tokenizer_kinds_have_their_declared_special_tokens():
    ids = {kind: tokenizer_of(kind)("1", add_special_tokens=False)["input_ids"] for kind in KINDS}
    assert len(ids["metaspace-prefix"]) == len(ids["added-specials"]) == 2
    assert len(ids["bytes-bos"]) == 1
    assert start_ids(tokenizer_of("bytes-no-bos")) == [] != start_ids(tokenizer_of("bos-is-eos"))
    same = tokenizer_of("bos-is-eos")
    assert same.bos_token_id == same.eos_token_id
    assert tokenizer_of("bytes-bos").pad_token is None
    assert tokenizer_of("pad-is-eos").pad_token_id == tokenizer_of("pad-is-eos").eos_token_id
    special = tokenizer_of("added-specials")
    (title,) = text_encoder(special).continued([" A <|user|> 5 </s>"])
    assert not {special.convert_tokens_to_ids("<|user|>"), special.eos_token_id} & set(title)


def test_a_chat_template_is_never_applied():
    with_chat, without = backbone_of("llama", "chat-template"), backbone_of("llama", "bytes-bos")
    assert describe_templates(with_chat) == describe_templates(without)
    assert Slot.PROMPT in get_template("rating").pieces
