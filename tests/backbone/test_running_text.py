"""Templates read as running text: title and template have the tokens of the whole sentence."""

import dataclasses
import functools

import pytest
from tiny import TOKENIZER_KINDS, tiny_tokenizer
from transformers import AutoTokenizer

from puma_engine.backbone.tasks import get_task
from puma_engine.backbone.templates import PIECEWISE, TEMPLATES, Slot
from puma_engine.backbone.tokens import encode_template, start_ids, text_encoder
from puma_engine.zoo import ZOO, zoo_folder

ZOO_NAMES = [name for name in ZOO if (zoo_folder(name) / "tokenizer.json").is_file()]
TITLES = [
    "The Hobbit by J. R. R. Tolkien",
    "1984",
    "7 Rooms of Gloom",
    "(500) Days of Summer",
    "[REC]",
    "'Salem's Lot",
    "...And Justice for All",
    "Who's Afraid of Virginia Woolf?",
    "Airplane!",
    "Se7en (1995)",
    "C# & <b>bold</b>",
    "#1",
    "It\u2019s 5 o\u2019clock",
    "\U0001f600 Emoji \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u00c9l\u00e8ve \u65e5\u672c\u8a9e \u041c\u0438\u0440",
    "e\u0301 combined",
    "{prompt} {item} <|user|> </s> <s> <bos> <unk> <0x41>",
    "a, b and c.",
]
HISTORY = "Dune by Frank Herbert, 1984, (500) Days of Summer"


@functools.cache
def tokenizer_of(name):
    if name in ZOO:
        return AutoTokenizer.from_pretrained(zoo_folder(name))
    return tiny_tokenizer(name)


def spans(encoded, title):
    """Return the ids in front of the prompt slot and behind it."""
    texts = {Slot.ITEM: title, Slot.HISTORY: HISTORY}
    before, after = (
        [
            token
            for piece in pieces
            for token in (
                encoded.fill(piece, [texts[piece]])[0] if isinstance(piece, Slot) else piece
            )
        ]
        for pieces in (encoded.before, encoded.after)
    )
    return before, after


def written(template, title, pieces):
    """Return the text of some pieces of a template, with the slots filled."""
    texts = {Slot.ITEM: title, Slot.HISTORY: HISTORY}
    return "".join(texts.get(piece, piece) for piece in pieces)


def merges_into_title(tokenizer, title, following):
    """Return whether the tokenizer joins the end of a title with what follows it."""
    encoder = text_encoder(tokenizer)
    (title_tokens,), (joined_tokens,) = (
        encoder.continued([f" {title}"]),
        encoder.continued([f" {title}{following}"]),
    )
    return joined_tokens[: len(title_tokens)] != title_tokens


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
@pytest.mark.parametrize("name", [*TOKENIZER_KINDS, *ZOO_NAMES])
def test_pieces_have_the_tokens_of_the_running_text(name, template):
    tokenizer = tokenizer_of(name)
    encoder, answers = text_encoder(tokenizer), get_task(template.task).answers
    encoded = encode_template(tokenizer, template, answers)
    following = {
        piece: template.pieces[number + 1][:1]
        for number, piece in enumerate(template.pieces[:-1])
        if piece in (Slot.ITEM, Slot.HISTORY)
    }
    compared = 0
    for title in TITLES:
        texts = {Slot.ITEM: title, Slot.HISTORY: HISTORY}
        if any(merges_into_title(tokenizer, texts[slot], mark) for slot, mark in following.items()):
            continue
        compared += 1
        before, after = spans(encoded, title)
        text = written(template, title, template.before)
        (expected,) = encoder([text.removesuffix(" ")])
        assert before == expected
        text = written(template, title, template.after)
        answer = " " + answers[0]
        (expected,) = encoder.continued([text + answer])
        if template.prompt_last:
            assert after == [] and encoded.answers[0] == expected[-1]
        else:
            assert [*after, encoded.answers[0]] == expected
    assert compared > len(TITLES) / 2


@pytest.mark.parametrize("name", ["bytes-bos", "bytes-no-bos", *ZOO_NAMES])
def test_no_token_is_a_lone_space_before_or_behind_a_title(name):
    tokenizer = tokenizer_of(name)
    for template in TEMPLATES.values():
        encoded = encode_template(tokenizer, template, get_task(template.task).answers)
        before, after = spans(encoded, "The Hobbit")
        for ids, text in ((before, template.before), (after, template.after)):
            decoded = tokenizer.decode(ids).strip()
            assert decoded == written(template, "The Hobbit", text).strip()
        lone = {"\u2581", "\u0120"}
        tokens = tokenizer.convert_ids_to_tokens([*encoded.fill(Slot.ITEM, ["The Hobbit"])[0]])
        assert not lone & set(tokens)


def test_a_title_ending_in_a_mark_is_not_merged_with_the_full_stop():
    """Only titles whose last mark the tokenizer would merge with the next differ from running text."""
    tokenizer = tiny_tokenizer("bytes-bos", ["Oh!. Rating: 1 2 3 4 5"] * 50)
    assert merges_into_title(tokenizer, "Oh!", ".")
    encoded = encode_template(tokenizer, TEMPLATES["rating"], ("1", "2", "3", "4", "5"))
    tokens = tokenizer.convert_ids_to_tokens(spans(encoded, "Oh!")[1])
    assert tokens[tokens.index("!") + 1] == "."


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_no_title_becomes_an_added_token(kind):
    tokenizer = tiny_tokenizer(kind)
    tokenizer.add_tokens(["Zebra"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    hidden = {tokenizer.convert_tokens_to_ids(t) for t in ("Zebra", "<|user|>", "<s>", "</s>")}
    titles = ["The Zebra", "Zebra", "</s> and <|user|>", "Zebra</s>"]
    encoded = encode_template(tokenizer, TEMPLATES["rating"], ("1", "2", "3", "4", "5"))
    ids = encoded.fill(Slot.ITEM, titles)
    assert not hidden.intersection(token for row in ids for token in row)
    if kind.startswith("bytes"):
        assert [tokenizer.decode(row) for row in ids] == [f" {title}" for title in titles]


def test_an_end_token_that_is_not_marked_as_special_is_not_read_from_text():
    """Phi-3 has the token </s> in its vocabulary, with special: false."""
    tokenizer = tiny_tokenizer("metaspace-prefix")
    state = tokenizer.backend_tokenizer.to_str().replace(
        '"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,'
        '"special":true',
        '"content":"</s>","single_word":false,"lstrip":false,"rstrip":true,"normalized":false,'
        '"special":false',
    )
    tokenizer = type(tokenizer)(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(state))
    end = tokenizer.convert_tokens_to_ids("</s>")
    assert end in tokenizer("a </s>", split_special_tokens=True)["input_ids"]
    (ids,) = text_encoder(tokenizer)(["a </s> b"])
    assert end not in ids


@pytest.mark.parametrize("model", ["Unigram", "WordLevel"])
def test_vocabularies_that_hold_their_special_tokens_do_not_read_them(model):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", "a", "b", "<", "/", "s", ">", "\u2581"]
    if model == "Unigram":
        core = Tokenizer(models.Unigram([(p, -float(n > 1)) for n, p in enumerate(pieces)], 0))
        core.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        core = Tokenizer(models.WordLevel({p: n for n, p in enumerate(pieces)}, "<unk>"))
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")
    (ids,) = text_encoder(tokenizer)(["a </s> b"])
    assert 1 not in ids and {2, 3} <= set(ids)


def test_the_piecewise_reading_equals_that_of_version_0_1():
    """Prompts of version 0.1 are read with its tokens, whose spaces are doubled."""
    template = dataclasses.replace(TEMPLATES["rating"], reading=PIECEWISE)
    tokenizer = tiny_tokenizer("metaspace-prefix")
    encoded = encode_template(tokenizer, template, ("1", "2", "3", "4", "5"))
    tokens = tokenizer.convert_ids_to_tokens(spans(encoded, "Emma")[1])
    assert tokens[0] == "\u2581."
    assert start_ids(tokenizer) == [tokenizer.bos_token_id]
