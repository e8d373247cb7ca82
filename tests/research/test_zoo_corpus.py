"""The corpus of the zoo: foundation users only, and sequences that follow their plan."""

import dataclasses

import numpy as np
import pytest

from puma_engine.backbone.tasks import get_task
from puma_engine.backbone.templates import TEMPLATES, Slot
from puma_engine.backbone.tokens import encode_template, start_ids
from puma_engine.datasets import is_foundation, load_shipped
from puma_engine.errors import ConfigError
from puma_engine.zoo import ZOO
from research.zoo.corpus import (
    FOUNDATION,
    HISTORY_TOKENS,
    ITEM_TOKENS,
    TokenisedCorpus,
    load_foundation,
)
from research.zoo.pretraining import split_corpus
from research.zoo.recipe import Recipe
from research.zoo.sequences import Sequences, draw_plan, fixed_plan
from research.zoo.tokenizers import train_tokenizer, training_texts

RECIPE = Recipe(steps=8, batch_size=64, user_vectors_share=0.2, slot_tokens=120)


@pytest.fixture(scope="module")
def loaded():
    return load_foundation(users=20)


@pytest.fixture(scope="module", params=["phi3-small", "qwen2-small"])
def tokenizer(request, loaded):
    plan = ZOO[request.param].tokenizer
    return train_tokenizer(plan, training_texts(*loaded[1:], plan))


@pytest.fixture(scope="module")
def tokenised(loaded, tokenizer):
    return TokenisedCorpus(tokenizer, loaded[0], RECIPE.pair_tokens)


@pytest.fixture(scope="module")
def sequences(loaded, tokenised):
    plan = draw_plan(loaded[0], RECIPE, tokenised, 512)
    return Sequences(loaded[0], RECIPE, tokenised, plan)


@pytest.mark.parametrize("name", FOUNDATION)
def test_no_product_user_is_in_the_corpus(loaded, name):
    product = set(load_shipped(name, users=300).users)
    number = list(FOUNDATION).index(name)
    users = [user for _, user in loaded[0].sources[number].people]
    assert users and not product & set(users)
    assert is_foundation(users, FOUNDATION[name]).all()


def test_a_corpus_holds_every_outcome_of_every_split(loaded):
    for name, source in zip(FOUNDATION, loaded[0].sources, strict=True):
        data = load_shipped(name, population="foundation", users=20)
        assert len(source) == len(data.interactions)
        task = get_task(source.task)
        actual = sorted(
            (source.people[user][1], loaded[0].titles[item], task.answers[answer])
            for user, item, answer in zip(source.user, source.item, source.answer, strict=True)
        )
        texts = dict(zip(data.items["item_id"], data.items["text"], strict=True))
        rows = data.interactions
        word = (lambda y: str(int(y))) if source.task == "rating" else {1: "Yes", 0: "No"}.get
        expected = sorted(
            (user, texts[item], word(outcome))
            for user, item, outcome in zip(
                rows["user_id"], rows["item_id"], rows["outcome"], strict=True
            )
        )
        assert actual == expected


def test_held_out_people_are_held_out_in_every_source(loaded):
    train, held_out = split_corpus(loaded[0], 0.2)
    assert held_out.people and not set(train.people) & set(held_out.people)
    assert sorted(train.people + held_out.people) == loaded[0].people
    assert sum(map(len, train.sources + held_out.sources)) == sum(map(len, loaded[0].sources))


def test_known_pairs_are_distinct_other_rows_of_the_user(loaded, sequences):
    plan = sequences.plan
    for row in range(len(plan)):
        source = loaded[0].sources[plan.source[row]]
        pairs = plan.pairs[row][plan.pairs[row] >= 0]
        assert (plan.pairs[row][: len(pairs)] >= 0).all()
        assert len(set(pairs)) == len(pairs)
        assert plan.target[row] not in pairs
        assert (source.user[pairs] == source.user[plan.target[row]]).all()
        if plan.vector[row]:
            assert not len(pairs)


def test_a_plan_is_a_function_of_its_seed(loaded, tokenised):
    first, second = (draw_plan(loaded[0], RECIPE, tokenised, 200) for _ in range(2))
    other = draw_plan(loaded[0], dataclasses.replace(RECIPE, seed=1), tokenised, 200)
    for field in dataclasses.fields(first):
        same = getattr(first, field.name)
        np.testing.assert_array_equal(same, getattr(second, field.name))
    assert (first.target != other.target).any()


def test_every_template_and_context_length_occurs(sequences):
    plan = sequences.plan
    assert set(plan.template) == set(range(len(TEMPLATES)))
    count = (plan.pairs[~plan.vector] >= 0).sum(axis=1)
    assert count.min() == 0 and count.max() > 4
    assert 0.1 < plan.vector.mean() < 0.3


def spelled(tokenizer, tokenised, corpus, plan, row):
    """Tokens of one sequence, joined step by step as the engine joins pieces."""
    source = corpus.sources[plan.source[row]]
    form = tokenised.templates[plan.template[row]]
    target = plan.target[row]
    encoded = encode_template(tokenizer, form.template, get_task(source.task).answers)
    texts = {Slot.ITEM: corpus.titles[source.item[target]]}
    texts[Slot.HISTORY] = corpus.histories[source.history[target]]
    most = {Slot.ITEM: ITEM_TOKENS, Slot.HISTORY: HISTORY_TOKENS}
    joined = list(start_ids(tokenizer))
    for piece in encoded.pieces:
        if piece is Slot.PROMPT:
            joined += [0] * int(plan.vector[row])
        elif isinstance(piece, Slot):
            joined += encoded.fill(piece, [texts[piece]])[0][: most[piece]]
        else:
            joined += piece
    return [*joined, encoded.answers[source.answer[target]]]


def test_sequences_without_pairs_have_the_tokens_of_the_engine(loaded, tokenizer, tokenised):
    recipe = dataclasses.replace(RECIPE, no_pairs=0.99)
    plan = draw_plan(loaded[0], recipe, tokenised, 400)
    plan = plan.take(np.flatnonzero((plan.pairs < 0).all(axis=1))[:200])
    sequences = Sequences(loaded[0], recipe, tokenised, plan)
    for row in range(len(plan)):
        ids = sequences.batch(np.array([row])).ids[0].tolist()
        assert ids == spelled(tokenizer, tokenised, loaded[0], plan, row)


def test_a_history_equals_that_of_the_data_set(loaded):
    data = load_shipped("goodbooks-to-read", population="foundation", users=20)
    texts = dict(zip(data.items["item_id"], data.items["text"], strict=True))
    source = loaded[0].sources[list(FOUNDATION).index("goodbooks-to-read")]
    titles = {
        (source.people[user][1], loaded[0].titles[item]): loaded[0].histories[history]
        for user, item, history in zip(source.user, source.item, source.history, strict=True)
    }
    for row in data.interactions.head(100).itertuples():
        expected = ", ".join(texts[item] for item in row.history) or "nothing yet"
        assert titles[row.user_id, texts[row.item_id]] == expected


def test_known_pairs_are_written_as_title_and_answer(loaded, tokenizer):
    tokenised = TokenisedCorpus(tokenizer, loaded[0], pair_tokens=60)
    recipe = dataclasses.replace(RECIPE, pair_tokens=60, slot_tokens=400)
    plan = fixed_plan(
        loaded[0],
        recipe,
        tokenised,
        source=0,
        template="rating",
        target=np.arange(20),
        pairs=3,
    )
    source, titles = loaded[0].sources[0], loaded[0].titles
    sequences = Sequences(loaded[0], recipe, tokenised, plan)
    for row in range(20):
        pairs = plan.pairs[row][plan.pairs[row] >= 0]
        slot = "; ".join(f"{titles[source.item[p]]}: {source.answer[p] + 1}" for p in pairs)
        text = tokenizer.decode(sequences.batch(np.array([row])).ids[0])
        assert pairs.size == 3 and squeezed(slot) in squeezed(text)


def squeezed(text):
    return "".join(text.split())


def test_padding_and_batch_order_change_nothing(sequences):
    rows = np.array([5, 3, 11, 0])
    batch = sequences.batch(rows)
    width = batch.ids.shape[1]
    for at, row in enumerate(rows):
        single = sequences.batch(np.array([row]))
        length = single.ids.shape[1]
        np.testing.assert_array_equal(batch.ids[at, :length], single.ids[0])
        assert not batch.ids[at, length:].any()
        assert batch.answer_at[at] == at * width + single.answer_at[0]
        in_row = batch.where // width == at
        np.testing.assert_array_equal(batch.where[in_row] % width, single.where)
        np.testing.assert_array_equal(batch.weight[in_row], single.weight)
        np.testing.assert_array_equal(batch.label[in_row], single.label)
    assert sequences.lengths()[rows].max() == width


def test_the_answer_is_the_last_token_and_has_weight_one(sequences):
    batch = sequences.batch(np.arange(64))
    answers = batch.weight == 1.0
    np.testing.assert_array_equal(batch.where[answers], batch.answer_at)
    np.testing.assert_array_equal(batch.label[answers], batch.ids.ravel()[batch.answer_at + 1])
    known = (sequences.plan.pairs[:64] >= 0).sum()
    assert (batch.weight == np.float32(RECIPE.outcome_weight)).sum() == known


def test_each_vector_belongs_to_the_user_of_its_row(loaded, sequences):
    rows = np.flatnonzero(sequences.plan.vector)[:20]
    batch = sequences.batch(rows)
    assert len(batch.vector_at) == len(rows)
    people = loaded[0].people
    for at, row in enumerate(rows):
        source = loaded[0].sources[sequences.plan.source[row]]
        user = source.user[sequences.plan.target[row]]
        assert people[batch.people[at]] == source.people[user]


def test_bad_settings_are_all_named_at_once():
    with pytest.raises(ConfigError, match="steps.*no_pairs.*text_weight"):
        Recipe(steps=0, no_pairs=1.0, text_weight=-1)
    with pytest.raises(ConfigError, match="nonsense"):
        Recipe(templates={"nonsense": 1.0})
