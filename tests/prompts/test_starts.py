"""Where soft prompts and adapters start: at the embedding of the text in front of the slot."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from puma_engine.backbone import FrozenBackbone
from puma_engine.backbone.templates import Slot, get_template
from puma_engine.backbone.tokens import encode_template
from puma_engine.config import AdapterConfig, PromptConfig, TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.migration.adapter import Adapter
from puma_engine.migration.adapter_training import train_migration
from puma_engine.prompts.tuning import fit_prompts, text_embedding

# A learning rate so small that prompts stay at their start.
STILL = TrainingConfig(epochs=1, batch_size=64, learning_rate=1e-9, warmup=0, patience=0)


@pytest.fixture(scope="module")
def data():
    return load_shipped("movietweetings", users=20)


@pytest.fixture(scope="module")
def model():
    return FrozenBackbone.load("llama-small", device="cpu", precision="fp32")


def token_in_front(model, name):
    """The text and the embedding of the last literal token in front of the slot."""
    encoded = encode_template(model.tokenizer, get_template(name), ("1", "2", "3", "4", "5"))
    before = [ids for ids in encoded.before if not isinstance(ids, Slot)]
    token = before[-1][-1] if before else encoded.after[0][0]
    return model.tokenizer.decode([token]), model.embed(torch.tensor(token)).detach().numpy()


@pytest.mark.parametrize("name", ["rating", "rating-item-first", "rating-prompt-last"])
def test_prompts_start_as_the_token_in_front_of_the_slot(model, data, name):
    prompt = PromptConfig(tokens=2)
    fitted = fit_prompts(model, data, template=name, training=STILL, prompt=prompt)
    text, embedding = token_in_front(model, name)
    if name == "rating-prompt-last":
        assert text.strip() == ":"
    vectors = fitted.table.vectors
    assert vectors.shape == (20, 2, model.width)
    np.testing.assert_allclose(vectors, np.broadcast_to(embedding, vectors.shape), atol=1e-5)


def test_a_slot_directly_behind_a_title_starts_at_the_text_before_the_title(model):
    pieces = ("Title: ", Slot.ITEM, " ", Slot.PROMPT, " Rating:")
    template = replace(get_template("rating-item-first"), pieces=pieces)
    encoded = encode_template(model.tokenizer, template, ("1", "2", "3", "4", "5"))
    colon = model.tokenizer(":", add_special_tokens=False)["input_ids"][-1]
    start = text_embedding(model, encoded)
    assert torch.equal(start, model.embed(torch.tensor(colon)).detach().float())


def test_an_adapter_near_a_vector_keeps_the_users_apart():
    config = AdapterConfig(hidden=16, dropout=0.0)
    adapters = [Adapter(8, 12, config, generator=torch.Generator().manual_seed(3)) for _ in "ab"]
    vector, prompts = torch.randn(12), torch.randn(5, 1, 8)
    offsets = adapters[0](prompts) - adapters[0].blocks[-1].layers[-1].bias
    adapters[1].start_at(vector)
    assert torch.allclose(adapters[1](prompts) - vector, 0.3 * offsets, atol=1e-6)


def test_migrated_prompts_start_near_the_token_in_front_of_the_slot(model, data):
    source = fit_prompts(
        model,
        data,
        template="rating-prompt-last",
        training=STILL,
        prompt=PromptConfig(start="random"),
    ).table
    _, embedding = token_in_front(model, "rating-prompt-last")

    def distance(start):
        moved = train_migration(
            [source],
            model,
            data,
            template="rating-prompt-last",
            training=STILL,
            adapter=AdapterConfig(hidden=32, output_start=start),
        )
        return np.linalg.norm(moved.table.vectors.mean(axis=0) - embedding)

    assert distance("text") < 0.5 * distance("random")
