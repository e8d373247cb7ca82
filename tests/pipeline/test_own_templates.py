"""Templates from files of users: checked, stored by content, and read wherever prompts are."""

import json

import numpy as np
import pytest
from command_line import puma
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import jobs, pipeline
from puma_engine.backbone import FrozenBackbone, Reader, inspect_backbone
from puma_engine.backbone.reader import Context
from puma_engine.backbone.templates import TEMPLATES, get_template
from puma_engine.errors import BackboneError, TemplateError
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.store import Workspace

TEXT = "Book: {item}\nHow many stars from 1 to 5? Rating:{prompt}"
TOML = f'task = "rating"\ntext = """\n{TEXT}\n"""\n'


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    ws = Workspace.open(folder / "workspace", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(folder / "ratings.csv"), task="rating"
    )
    small = tiny_backbone_folder(folder / "models", "phi3")
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    file = folder / "mine.toml"
    file.write_text(TOML, encoding="utf-8")
    source = pipeline.fit_prompts(ws, data, small, template=str(file), training=QUICK)
    return {"ws": ws, "data": data, "small": small, "large": large, "file": file, "source": source}


def test_the_run_id_depends_on_the_content_of_a_template_and_not_on_its_path(world, tmp_path):
    ws, data, small = world["ws"], world["data"], world["small"]
    source = world["source"]
    assert source.config["template_text"] == TEXT
    assert source.config["template"] == get_template(str(world["file"])).name
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"task": "rating", "text": TEXT}))
    assert pipeline.fit_prompts(ws, data, small, template=str(other), training=QUICK) == source
    other.write_text(json.dumps({"task": "rating", "text": TEXT.replace("Book", "Title")}))
    changed = pipeline.fit_prompts(ws, data, small, template=str(other), training=QUICK)
    assert changed.id != source.id


def test_runs_with_a_template_can_be_used_without_its_file(world):
    ws, source = world["ws"], world["source"]
    hidden = world["file"].rename(world["file"].with_suffix(".gone"))
    try:
        moved = pipeline.migrate(ws, source, world["large"], training=QUICK, adapter=SMALL)
        assert moved.config["template_text"] == TEXT
        score = pipeline.evaluate(ws, moved)
        row = pipeline.read_predictions(ws, score).iloc[0]
        title = pipeline.load_dataset(ws, world["data"]).items.set_index("item_id")["text"]
        predicted = pipeline.predict_title(ws, moved, row["user_id"], title[row["item_id"]])
        assert predicted.value == pytest.approx(row["prediction"], abs=1e-4)
    finally:
        hidden.rename(world["file"])


def test_an_export_contains_its_template(world, tmp_path):
    ws, source = world["ws"], world["source"]
    file = pipeline.export_prompts(ws, source, tmp_path / "p.safetensors")
    imported = pipeline.import_prompts(ws, world["data"], world["small"], file, role="retrained")
    assert imported.config["template_text"] == TEXT
    first, second = (
        pipeline.read_predictions(ws, pipeline.evaluate(ws, run))["prediction"]
        for run in (source, imported)
    )
    np.testing.assert_array_equal(first, second)


def test_the_command_line_takes_a_file_and_a_job_holds_its_content(world, tmp_path, monkeypatch):
    ws, file = world["ws"], tmp_path / "mine.toml"
    file.write_text(TOML, encoding="utf-8")
    monkeypatch.setenv("PUMA_WORKSPACE", str(ws.root))
    monkeypatch.setattr("puma_engine.jobs.ensure_worker", lambda _ws: False)
    options = ["--dataset", world["data"].id, "--backbone", str(world["small"])]
    options += [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    arguments = ["prompts", "fit", *options, "--template", str(file), "--queue"]
    queued = puma(ws, *arguments)
    file.unlink()
    jobs.worker(ws, devices=["cpu"], once=True)
    job = jobs.job(ws, queued["id"])
    assert job.status == "finished", jobs.read_log(ws, job.id)
    assert job.run_id == world["source"].id


def test_the_check_of_a_model_shows_a_template_from_a_file(world):
    card = inspect_backbone(world["small"], device="cpu", template=str(world["file"]))
    shown = card["templates"][get_template(str(world["file"])).name]
    assert shown["tokens"][shown["slot_position"]] == "<prompt>" == shown["tokens"][-1]
    assert set(card["templates"]) > set(TEMPLATES)


def test_a_prompt_at_the_end_is_embedded_with_its_text_and_refused_by_peft(world, tmp_path):
    from puma_engine.exchange.prompt_embeddings import read_embedded

    ws, source = world["ws"], world["source"]
    frame = pipeline.read_predictions(ws, pipeline.evaluate(ws, source)).head(3)
    pairs = list(zip(frame["user_id"], frame["item_id"], strict=True))
    embedded = read_embedded(pipeline.embed_prompts(ws, source, pairs, tmp_path / "p.safetensors"))
    table = pipeline.load_prompts(ws, source)
    for tensor, (user, _) in zip(embedded.tensors, pairs, strict=True):
        np.testing.assert_array_equal(tensor[-1:].numpy(), table.take([user])[0])
    with pytest.raises(TemplateError, match="in front of the soft prompt"):
        pipeline.export_prompts(ws, source, tmp_path / "peft", format="peft")
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize("answers", ["space", "bare"])
def test_the_spelling_of_answers_can_be_chosen(world, answers):
    backbone = FrozenBackbone.load(world["large"], device="cpu")
    spec = json.dumps({"template": "rating-prompt-last", "answers": answers})
    template = get_template(spec)
    assert get_template(template.spec) == template and template.to_config()["answers"] == answers
    if answers == "space":
        with pytest.raises(BackboneError, match="answers: auto"):
            Reader(backbone, template, [Context("Dune")])
        return
    reader = Reader(backbone, template, [Context("Dune")])
    assert backbone.tokenizer.convert_ids_to_tokens(reader.answers.tolist()) == list("12345")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.toml", None, "cannot be read"),
        ("a.toml", "task = ", "is not valid"),
        ("a.json", "[1]", "needs task and text"),
        ("a.json", '{"task": "rating"}', "needs task and text"),
        ("a.json", '{"task": "rating", "text": "a", "prompt": "b"}', "needs task and text"),
        ("a.json", '{"task": "rating", "text": 3}', "must be a text"),
        ("a.json", '{"task": "stars", "text": "{item} {prompt} a"}', "rating or click"),
        ("a.json", '{"task": "rating", "text": "{item} Rating:"}', "0 prompt slots"),
        ("a.json", '{"task": "rating", "text": "{prompt} Rating:"}', "0 item slots"),
        ("a.json", '{"task": "rating", "text": "Rating: {prompt} {item}"}', "no answer cue"),
        ("a.json", '{"task": "rating", "text": "{user} {item} {prompt} a:"}', "no slot {user}"),
        ("a.json", '{"template": "nothing"}', "no template 'nothing'"),
        ("a.json", '{"template": "rating", "answers": "loud"}', "auto, space, bare"),
        ("a.json", "[" * 200_000, "nested too deep"),
        ("a.toml", "a = " + "[" * 200_000, "nested too deep"),
        ("nothing", None, "the templates are rating"),
    ],
)
def test_an_invalid_template_is_refused(tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(TemplateError, match=message) as refused:
        get_template(str(file) if file.suffix else name)
    assert "\n" not in str(refused.value)


def test_a_shipped_template_as_a_file_is_that_template(tmp_path):
    for template in TEMPLATES.values():
        content = json.dumps({"task": template.task, "text": template.text})
        assert get_template(content) is template or get_template(content) == template
        assert "template_text" not in get_template(content).to_config()


def test_an_added_token_beyond_the_embeddings_is_never_produced(world, tmp_path):
    from transformers import AutoTokenizer

    folder = tiny_backbone_folder(tmp_path, "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Zebra"])
    tokenizer.save_pretrained(folder)
    card = inspect_backbone(folder, device="cpu")
    assert any("not embedded" in warning for warning in card["warnings"])
    table = tmp_path / "small.csv"
    rows = [(u, i, 1 + (u * i) % 5, f"Zebra {i}") for u in range(6) for i in range(8)]
    lines = [f"{u},i{i},{r},{text}" for u, i, r, text in rows]
    table.write_text("\n".join(["user_id,item_id,outcome,text", *lines]))
    ws = world["ws"]
    data = pipeline.import_dataset(ws, "table", path=table, task="rating", min_rows=1)
    run = pipeline.fit_prompts(ws, data, folder, training=QUICK)
    assert np.isfinite(pipeline.load_prompts(ws, run).vectors).all()
    backbone = load_backbone(ws, run.inputs["backbone"])
    reader = Reader(backbone, TEMPLATES["rating"], [Context("Zebra")])
    assert max(max(ids) for ids in reader.sequence(0)) < len(tokenizer) - 1
