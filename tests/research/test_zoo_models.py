"""Models of the zoo: incompatible with each other, within their size limit, and with correct cards."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from puma_engine.errors import NotFoundError
from puma_engine.files import sha256_file
from puma_engine.zoo import SHIPPED, ZOO, get_entry, zoo_folder
from research.zoo.cards import readme
from research.zoo.tokenizers import train_tokenizer

MOST_BYTES = 24_000_000
WEIGHT_BYTES = 18_000_000


@pytest.fixture(scope="module")
def untrained():
    """Every model on the meta device, with a tokenizer of its kind."""
    models = {}
    for name, entry in ZOO.items():
        tokenizer = train_tokenizer(entry.tokenizer, ["A title by somebody"])
        with torch.device("meta"):
            models[name] = entry.model(tokenizer)
    return models


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_models_are_incompatible():
    entries = list(ZOO.values())
    assert {entry.family for entry in entries} == {"llama", "qwen2", "gemma3", "phi3", "stablelm"}
    for attribute in ("width", "vocabulary"):
        assert len({getattr(entry, attribute) for entry in entries}) == len(entries)
    assert {entry.tied for entry in entries} == {True, False}
    assert len({entry.layers for entry in entries}) > 1
    assert [entry.name for entry in entries if entry.role == "source"] == ["llama-small"]


@pytest.mark.parametrize("name", ZOO)
def test_a_model_has_the_shape_that_its_entry_says(untrained, name):
    entry, model = ZOO[name], untrained[name]
    config = model.config
    assert model.get_input_embeddings().weight.shape == (entry.vocabulary, entry.width)
    assert config.num_hidden_layers == entry.layers
    assert config.num_key_value_heads == entry.kv_heads <= 2
    head_width = getattr(config, "head_dim", None) or entry.width // entry.heads
    assert head_width == 32
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert shared == entry.tied


def test_the_target_is_larger_and_all_weights_fit(untrained):
    sizes = {name: parameters(model) for name, model in untrained.items()}
    assert 1.0e6 < sizes["llama-small"] < 1.4e6
    assert sizes["llama-medium"] > 2 * sizes["llama-small"]
    assert 2 * sum(sizes[name] for name in SHIPPED) <= WEIGHT_BYTES
    assert sizes["llama-large"] > 3 * sizes["llama-medium"]


def test_qwen_has_attention_biases_and_gemma_local_layers(untrained):
    assert untrained["qwen2-small"].model.layers[0].self_attn.q_proj.bias is not None
    assert set(untrained["gemma3-small"].config.layer_types) == {
        "sliding_attention",
        "full_attention",
    }


def test_the_folder_follows_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_DATA", str(tmp_path))
    assert zoo_folder("phi3-small") == tmp_path / "zoo" / "phi3-small"


def test_an_unknown_name_is_refused_with_the_names():
    with pytest.raises(NotFoundError, match="llama-small"):
        get_entry("llama-tiny")


def shipped(name):
    folder = zoo_folder(name)
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"{name} has not been built")
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_loads_and_is_fp16(name):
    folder = shipped(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert parameters(model) == json.loads((folder / "card.json").read_text())["parameters"]
    assert len(tokenizer) <= model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_card_is_complete_and_true(name):
    folder = shipped(name)
    card = json.loads((folder / "card.json").read_text())
    assert card["name"] == name
    assert card["sha256"] == sha256_file(folder / "model.safetensors")
    assert "CC BY-SA 4.0" in card["licence_note"]
    assert (folder / "README.md").read_text() == readme(card)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_predicts_better_with_more_known_pairs(name):
    """The RMSE with twelve known pairs is below that with none and below that of the item mean."""
    card = json.loads((shipped(name) / "card.json").read_text())
    report = card["validation"]["goodbooks"]
    for template in ("rating", "rating-item-first"):
        rmse = {pairs: scores["rmse"] for pairs, scores in report[template].items()}
        assert rmse["12"] < rmse["4"] < rmse["0"]
        assert rmse["12"] < report["item_mean"]["rmse"]


def test_shipped_weights_fit_their_size_limit():
    folders = [shipped(name) for name in SHIPPED]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
