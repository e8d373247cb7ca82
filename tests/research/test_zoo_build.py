"""Builds of zoo models: trained, measured, complete and reproducible."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from puma_engine.cli import app
from puma_engine.errors import Cancelled
from puma_engine.files import sha256_file
from puma_engine.zoo import ZOO, zoo_folder
from research.zoo.build import build_model, main
from research.zoo.corpus import load_foundation
from research.zoo.pretraining import Material, Pretraining, last_hidden
from research.zoo.recipe import Recipe
from research.zoo.tokenizers import train_tokenizer, training_texts

TINY = Recipe(steps=3, batch_size=8, validation_rows=8, validation_share=0.2, pairs=4)


@pytest.fixture(scope="module")
def corpus():
    return load_foundation(users=12)


@pytest.fixture(scope="module", params=["qwen2-small", "gemma3-small", "phi3-small"])
def module(request, corpus):
    entry = ZOO[request.param]
    tokenizer = train_tokenizer(entry.tokenizer, training_texts(*corpus[1:], entry.tokenizer))
    recipe = Recipe(steps=4, batch_size=8, user_vectors_share=0.5)
    material = Material.build(recipe, tokenizer, corpus[0])
    torch.manual_seed(0)
    return Pretraining(
        entry.model(tokenizer), material.sequences, len(material.train.people), recipe
    )


def test_the_loss_of_a_batch_is_the_sum_over_its_rows(module):
    rows = torch.arange(6)
    with torch.no_grad():
        batched = module(rows)
        summed = sum(module(rows[row : row + 1]) for row in range(6))
    torch.testing.assert_close(batched, summed, rtol=1e-4, atol=1e-3)


def test_only_vectors_of_users_in_the_batch_change(module):
    rows = np.flatnonzero(module.sequences.plan.vector)[:3]
    batch = module.sequences.batch(rows)
    module.zero_grad()
    module(torch.from_numpy(rows)).backward()
    moved = module.user_vectors.weight.grad.abs().sum(dim=1).nonzero().ravel()
    assert sorted(moved.tolist()) == sorted(set(batch.people.tolist()))


def build(zoo):
    return build_model("phi3-small", out=zoo, recipe=TINY, device="cpu", users=12)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A zoo of one model that was built, and what the build returned."""
    zoo = tmp_path_factory.mktemp("zoo")
    return zoo, build(zoo)


def test_a_build_writes_a_model_that_loads_with_a_true_card(built):
    zoo, returned = built
    folder = zoo / "phi3-small"
    assert [path.name for path in zoo.iterdir()] == ["phi3-small"]
    card = json.loads((folder / "card.json").read_text())
    assert card == returned
    shipped = json.loads((zoo_folder("phi3-small") / "card.json").read_text())
    assert set(card) == set(shipped) and set(card["recipe"]) == set(shipped["recipe"])
    assert card["sequences"] == 24 and card["tokens"] > 24 * 40
    assert card["sha256"] == sha256_file(folder / "model.safetensors")
    assert set(card["validation"]["goodbooks"]["rating"]) == {"0", "4", "12"}
    assert "12 pairs" in (folder / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.float16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The Hobbit", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.isfinite(model.float()(ids).logits).all()


def test_the_same_recipe_gives_the_same_weights_and_the_next_build_replaces_them(built):
    zoo, first = built
    (zoo / "phi3-small" / "older").touch()
    assert build(zoo)["sha256"] == first["sha256"]
    assert [path.name for path in zoo.iterdir()] == ["phi3-small"]
    assert not (zoo / "phi3-small" / "older").exists()


def test_a_cancelled_build_does_not_change_the_existing_folder(tmp_path):
    (tmp_path / "llama-small").mkdir()
    (tmp_path / "llama-small" / "mine").write_text("kept")
    with pytest.raises(Cancelled):
        build_model(
            "llama-small",
            out=tmp_path,
            recipe=TINY,
            device="cpu",
            users=12,
            should_cancel=lambda: True,
        )
    assert [path.name for path in (tmp_path / "llama-small").iterdir()] == ["mine"]


def test_bad_settings_on_the_command_line_end_in_one_line(tmp_path, capsys):
    assert main(["--only", "llama-small", "--steps", "0", "--out", str(tmp_path)]) == 1
    assert "steps must be above 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_padding_does_not_change_hidden_states(module):
    batch = module.sequences.batch(np.arange(4))
    with torch.no_grad():
        hidden = last_hidden(module.model.eval(), batch)[batch.answer_at[0]]
        single_batch = module.sequences.batch(np.array([0]))
        expected = last_hidden(module.model, single_batch)[single_batch.answer_at[0]]
    torch.testing.assert_close(hidden, expected, rtol=1e-3, atol=1e-3)


def test_the_old_command_names_its_replacement():
    result = CliRunner().invoke(app, ["zoo", "build", "--only", "llama-small"])
    assert result.exit_code == 1 and "python -m research.zoo" in result.stderr
    assert len(result.stderr.splitlines()) == 1
