"""Tokenizers of the zoo: five kinds, each like that of its family, all with single-token answers."""

import pytest
from transformers import AutoTokenizer

from puma_engine.backbone.tasks import get_task
from puma_engine.backbone.templates import TEMPLATES
from puma_engine.backbone.tokens import encode_template, start_ids, text_encoder
from puma_engine.zoo import ZOO
from research.zoo.corpus import load_foundation
from research.zoo.tokenizers import train_tokenizer, training_texts

ODD = [
    "<s> of <|endoftext|> and <0x41><bos>",
    "\u00c9l\u00e8ve \u65e5\u672c",
    "  two  spaces ",
    "1984",
]


@pytest.fixture(scope="module")
def titles():
    _, books, movies = load_foundation(users=20)
    return books, movies


@pytest.fixture(scope="module")
def tokenizers(titles, tmp_path_factory):
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
def test_a_loaded_tokenizer_equals_the_trained_one(tokenizers, titles, name):
    tokenizer, loaded = tokenizers[name]
    texts = [*titles[0][:100], *ODD]
    assert text_encoder(loaded)(texts) == text_encoder(tokenizer)(texts)
    assert text_encoder(loaded).continued(texts) == text_encoder(tokenizer).continued(texts)
    assert start_ids(loaded) == start_ids(tokenizer)
    assert len(loaded) <= ZOO[name].tokenizer.size
    assert max(loaded.get_vocab().values()) < ZOO[name].vocabulary
    for token in ("bos_token", "eos_token", "pad_token"):
        assert getattr(loaded, token) == getattr(tokenizer, token)


@pytest.mark.parametrize("name", ZOO)
def test_training_is_deterministic(tokenizers, titles, name):
    plan = ZOO[name].tokenizer
    retrained = train_tokenizer(plan, training_texts(*titles, plan))
    assert retrained.backend_tokenizer.to_str() == tokenizers[name][0].backend_tokenizer.to_str()


def test_start_tokens_follow_the_family(tokenizers):
    start = {name: start_ids(loaded) for name, (_, loaded) in tokenizers.items()}
    assert {name for name, ids in start.items() if not ids} == {"qwen2-small", "stablelm-small"}
    assert tokenizers["qwen2-small"][1].bos_token is None
    stablelm = tokenizers["stablelm-small"][1]
    assert stablelm.bos_token == stablelm.eos_token
    for name in ("llama-small", "llama-medium", "gemma3-small", "phi3-small"):
        assert start[name] == [tokenizers[name][1].bos_token_id]


def test_a_digit_alone_is_two_tokens_only_where_a_space_is_prepended(tokenizers):
    count = {name: len(text_encoder(loaded)(["4"])[0]) for name, (_, loaded) in tokenizers.items()}
    assert count.pop("phi3-small") == 2
    assert set(count.values()) == {1}
    for _, loaded in tokenizers.values():
        assert len(text_encoder(loaded).continued(["4"])[0]) == 1


@pytest.mark.parametrize("name", ZOO)
def test_digits_are_separate_tokens(tokenizers, name):
    (ids,) = text_encoder(tokenizers[name][1])(["in 1984, #12"])
    tokens = tokenizers[name][1].convert_ids_to_tokens(ids)
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("198412")


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ZOO)
def test_every_template_can_be_answered(tokenizers, name, template):
    known = get_task(TEMPLATES[template].task).answers
    encoded = encode_template(tokenizers[name][1], TEMPLATES[template], known)
    assert len(set(encoded.answers)) == len(known)


@pytest.mark.parametrize("name", ZOO)
def test_special_tokens_in_a_title_are_encoded_as_text(tokenizers, name):
    loaded = tokenizers[name][1]
    special = set(loaded.all_special_ids) - {getattr(loaded, "unk_token_id", None)}
    for token in loaded.all_special_tokens:
        (ids,) = text_encoder(loaded)([f"The {token} of {token}"])
        assert not special & set(ids)


@pytest.mark.parametrize("name", ZOO)
def test_continued_text_has_the_tokens_of_the_full_text(tokenizers, titles, name):
    encoder = text_encoder(tokenizers[name][1])
    for text in ("; The Hobbit: ", ": 4", *(f" {title}" for title in titles[1][:50])):
        (continuation,), (start, complete) = (
            encoder.continued([text]),
            encoder(["Catch 22", f"Catch 22{text}"]),
        )
        assert start + continuation == complete


def test_all_vocabularies_differ(tokenizers):
    vocabularies = [tuple(sorted(loaded.get_vocab().items())) for _, loaded in tokenizers.values()]
    assert len(set(vocabularies)) == len(ZOO)
    sentence = "The Hobbit by J.R.R. Tolkien"
    ids = [text_encoder(loaded)([sentence])[0] for _, loaded in tokenizers.values()]
    assert len(set(map(tuple, ids))) == len(ZOO)
