"""Prompts that start at embeddings of the model: the mean of its tokens, or those of a word."""

import numpy as np
import pytest
import torch
from tiny import tiny_backbone_folder

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import PromptConfig, TrainingConfig, stable_hash
from puma_engine.datasets import load_shipped
from puma_engine.errors import ConfigError
from puma_engine.prompts.tuning import embedded_start, fit_prompts


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return FrozenBackbone.load(tiny_backbone_folder(tmp_path_factory.mktemp("m")), device="cpu")


def test_the_start_is_the_mean_or_the_words_embeddings(backbone):
    weight = backbone.model.get_input_embeddings().weight
    mean = embedded_start(backbone, 3, None)
    torch.testing.assert_close(mean, weight.mean(dim=0).expand(1, 3, -1), atol=1e-6, rtol=0)
    ids = backbone.tokenizer(" Dune", add_special_tokens=False)["input_ids"]
    start = embedded_start(backbone, len(ids) + 1, "Dune")
    assert torch.equal(start[0], weight[[*ids, ids[0]]])


@pytest.mark.parametrize("start", ["mean", "word"])
def test_untrained_prompts_stay_at_their_start(backbone, start):
    """With a learning rate near 0 every user stays at the start."""
    dataset = load_shipped("movietweetings", users=8)
    training = TrainingConfig(epochs=1, batch_size=256, learning_rate=1e-12)
    prompt = PromptConfig(tokens=2, start=start, start_word="Dune")
    fitted = fit_prompts(
        backbone, dataset, template="rating-prompt-last", training=training, prompt=prompt
    )
    expected = embedded_start(backbone, 2, None if start == "mean" else "Dune").numpy()
    np.testing.assert_allclose(
        fitted.table.vectors, np.repeat(expected, len(dataset.users), axis=0), atol=1e-6
    )


def test_old_settings_keep_their_hash_and_wrong_ones_are_refused():
    stored = {"tokens": 1, "init_scale": 0.1, "start": "shared"}
    shared = PromptConfig(start="shared")
    assert shared.to_dict() == stored and shared.hash == stable_hash(stored)
    assert PromptConfig(start="word", start_word="film").to_dict()["start_word"] == "film"
    for settings in ({"start": "words"}, {"start_word": " "}):
        with pytest.raises(ConfigError, match="start"):
            PromptConfig(**settings)
