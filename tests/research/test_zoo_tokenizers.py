"""Tokenizers of the zoo: five kinds, each like that of its family, all with single-token answers."""

import pytest
from transformers import AutoTokenizer

from puma_engine.backbone.tasks import get_task
from puma_engine.backbone.templates import TEMPLATES
from puma_engine.backbone.tokens import answer_tokens, encode_raw, encode_text, start_ids
from puma_engine.zoo import ZOO
from research.zoo.corpus import continued_many, encode_many, load_foundation
from research.zoo.tokenizers import train_tokenizer, training_texts

ODD = [
    "<s> of <|endoftext|> and <0x41><bos>",
    "\u00c9l\u00e8ve \u65e5\u672c",
    "  two  spaces ",
    "1984",
]


@pytest.fixture(scope="module")
def titles():
    _, books, movies = load_foundation(users=40)
    return books, movies


@pytest.fixture(scope="module")
def made(titles, tmp_path_factory):
    """Every tokenizer as it loads from the folder of its model."""
    tokenizers = {}
    for name, entry in ZOO.items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer = train_tokenizer(entry.tokenizer, training_texts(*titles, entry.tokenizer))
        tokenizer.save_pretrained(folder)
        entry.model(tokenizer).config.save_pretrained(folder)
        tokenizers[name] = (tokenizer, AutoTokenizer.from_pretrained(folder))
    return tokenizers


@pytest.mark.parametrize("name", ZOO)
def test_a_loaded_tokenizer_equals_the_trained_one(made, titles, name):
    tokenizer, loaded = made[name]
    for text in [*titles[0][:100], *ODD]:
        assert encode_text(loaded, text) == encode_text(tokenizer, text)
    assert start_ids(loaded) == start_ids(tokenizer)
    assert len(loaded) <= ZOO[name].tokenizer.size
    assert max(loaded.get_vocab().values()) < ZOO[name].vocabulary
    for token in ("bos_token", "eos_token", "pad_token"):
        assert getattr(loaded, token) == getattr(tokenizer, token)


@pytest.mark.parametrize("name", ZOO)
def test_training_is_deterministic(made, titles, name):
    plan = ZOO[name].tokenizer
    again = train_tokenizer(plan, training_texts(*titles, plan))
    assert again.backend_tokenizer.to_str() == made[name][0].backend_tokenizer.to_str()


def test_start_tokens_follow_the_family(made):
    start = {name: start_ids(loaded) for name, (_, loaded) in made.items()}
    assert {name for name, ids in start.items() if not ids} == {"qwen2-small", "stablelm-small"}
    assert made["qwen2-small"][1].bos_token is None
    stablelm = made["stablelm-small"][1]
    assert stablelm.bos_token == stablelm.eos_token
    for name in ("llama-small", "llama-medium", "gemma3-small", "phi3-small"):
        assert start[name] == [made[name][1].bos_token_id]


def test_a_digit_alone_is_two_tokens_only_where_a_space_is_prepended(made):
    count = {name: len(encode_raw(loaded, "4")) for name, (_, loaded) in made.items()}
    assert count.pop("phi3-small") == 2
    assert set(count.values()) == {1}


@pytest.mark.parametrize("name", ZOO)
def test_digits_are_separate_tokens(made, name):
    tokens = made[name][1].convert_ids_to_tokens(encode_text(made[name][1], "in 1984, #12"))
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("198412")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ZOO)
def test_every_template_can_be_answered(made, name, template):
    known = get_task(TEMPLATES[template].task).answers
    _, ids = answer_tokens(made[name][1], TEMPLATES[template], known)
    assert len(set(ids)) == len(known)


@pytest.mark.parametrize("name", ZOO)
def test_special_tokens_in_a_title_are_encoded_as_text(made, name):
    loaded = made[name][1]
    special = set(loaded.all_special_ids) - {getattr(loaded, "unk_token_id", None)}
    for token in loaded.all_special_tokens:
        assert not special & set(encode_text(loaded, f"The {token} of {token}"))


@pytest.mark.parametrize("name", ZOO)
def test_batched_encoding_equals_single_encoding(made, titles, name):
    loaded = made[name][1]
    texts = [*titles[0][:50], *ODD[:2]]
    assert encode_many(loaded, texts) == [encode_text(loaded, text) for text in texts]


@pytest.mark.parametrize("name", ZOO)
def test_continued_text_has_the_tokens_of_the_whole(made, name):
    loaded = made[name][1]
    (rest,) = continued_many(loaded, ["; The Hobbit: "])
    assert encode_raw(loaded, "1") + rest == encode_raw(loaded, "1; The Hobbit: ")


def test_all_vocabularies_differ(made):
    vocabularies = [tuple(sorted(loaded.get_vocab().items())) for _, loaded in made.values()]
    assert len(set(vocabularies)) == len(ZOO)
    sentence = "The Hobbit by J.R.R. Tolkien"
    assert len({tuple(encode_text(loaded, sentence)) for _, loaded in made.values()}) == len(ZOO)
