"""Exported prompts and adapters: exact round trips, and other software that computes the same."""

import base64
import csv
import http.server
import io
import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder
from tiny_hub import TinyHub

from puma_engine import pipeline
from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.templates import get_template
from puma_engine.errors import (
    BackboneError,
    ConfigError,
    DataError,
    MigrationError,
    StoreError,
    TemplateError,
)
from puma_engine.exchange import prompt_embeddings, vllm_client
from puma_engine.exchange.adapter_folders import from_hub, push_to_hub, read_adapter
from puma_engine.exchange.model_card import CardContent, model_card
from puma_engine.exchange.pairs import read_pairs
from puma_engine.exchange.peft import input_ids
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.migration.adapter import apply_adapter
from puma_engine.store import Workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Prompts with the slot before the item, and a migration of them, on tiny models."""
    folder = tmp_path_factory.mktemp("world")
    ws = Workspace.open(folder / "workspace", create=True)
    table = write_ratings(folder / "ratings.csv")
    data = pipeline.import_dataset(ws, "table", path=table, task="rating")
    small = tiny_backbone_folder(folder / "models", "llama")
    large = tiny_backbone_folder(folder / "models", "gemma3", width=48)
    source = pipeline.fit_prompts(
        ws, data, small, template="rating", training=QUICK, prompt={"tokens": 2}
    )
    moved = pipeline.migrate(ws, source, large, training=QUICK, adapter=SMALL)
    score = pipeline.evaluate(ws, moved)
    names = ("ws", "data", "small", "large", "source", "moved", "score")
    return dict(zip(names, (ws, data, small, large, source, moved, score), strict=True))


def same(table, other, users=None):
    users = table.user_ids.tolist() if users is None else users
    assert np.array_equal(table.take(users), other.take(users))
    assert set(table.head) == set(other.head)
    assert all(np.array_equal(table.head[name], other.head[name]) for name in table.head)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("file", "p.safetensors"),
        ("parquet", "p.parquet"),
        ("numpy", "p.npz"),
        ("packed", "packed"),
        ("peft", "peft"),
    ],
)
def test_every_format_round_trips_exactly(world, tmp_path, form, name):
    ws = world["ws"]
    shards = {"shard_users": 7} if form == "packed" else {}
    path = pipeline.export_prompts(
        ws, world["moved"], tmp_path / name, form=form, device="cpu", **shards
    )
    imported = pipeline.import_prompts(ws, world["data"], world["large"], path, name=f"back-{form}")
    same(pipeline.load_prompts(ws, world["moved"]), pipeline.load_prompts(ws, imported))
    assert imported.config["template"] == "rating" and "head_training" not in imported.config
    before = pipeline.evaluate(ws, world["moved"]).summary["metrics"]
    assert pipeline.evaluate(ws, imported).summary["metrics"] == before


def test_a_shuffled_table_is_joined_by_user_id(world, tmp_path):
    ws, table = world["ws"], pipeline.load_prompts(world["ws"], world["moved"])
    users = table.user_ids[::-1].tolist()
    path = pipeline.export_prompts(
        ws, world["moved"], tmp_path / "p.npz", form="numpy", users=users
    )
    assert read_prompts(path).user_ids == users
    imported = pipeline.import_prompts(ws, world["data"], world["large"], path, name="reversed")
    same(table, pipeline.load_prompts(ws, imported))


def test_an_export_is_imported_without_its_head_where_none_is_asked_for(world, tmp_path):
    ws, path = world["ws"], tmp_path / "prompts.safetensors"
    pipeline.export_prompts(ws, world["source"], path)
    tables, ids = {}, set()
    for head in ("auto", "none"):
        run = pipeline.import_prompts(ws, world["data"], world["small"], path, head=head, name=head)
        tables[head] = pipeline.load_prompts(ws, run)
        assert run.summary["head"] is (tables[head].head is not None)
        ids.add(run.id)
    assert tables["auto"].head is not None and tables["none"].head is None and len(ids) == 2
    assert np.array_equal(tables["auto"].vectors, tables["none"].vectors)


def test_one_user_is_read_from_a_packed_folder_by_its_index(world, tmp_path):
    from safetensors import safe_open

    ws, table = world["ws"], pipeline.load_prompts(world["ws"], world["moved"])
    folder = pipeline.export_prompts(
        ws, world["moved"], tmp_path / "packed", form="packed", shard_users=7
    )
    index = pd.read_parquet(folder / "index.parquet").set_index("user_id")
    assert index["shard"].nunique() == 4
    shard, row = index.loc["013", ["shard", "row"]]
    with safe_open(folder / shard, framework="np") as file:
        vector = file.get_slice("vectors")[int(row) : int(row) + 1]
    assert np.array_equal(vector, table.take(["013"]))


def test_a_peft_model_gives_the_engines_logits(world, tmp_path):
    import peft
    import transformers

    ws, context = world["ws"], Context("Book 3 by Author 1")
    folder = pipeline.export_prompts(
        ws, world["moved"], tmp_path / "peft", form="peft", users=["004", "011"], device="cpu"
    )
    backbone = FrozenBackbone.load(world["large"], device="cpu")
    reader = Reader(backbone, get_template("rating"), [context])
    table = pipeline.load_prompts(ws, world["moved"])
    for user in ("004", "011"):
        base = transformers.AutoModelForCausalLM.from_pretrained(world["large"]).eval()
        model = peft.PeftModel.from_pretrained(base, folder / user).eval()
        ids = torch.tensor([input_ids(backbone, "rating", context)])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, -1, reader.answers]
            expected = reader.logits(torch.from_numpy(table.take([user])), torch.tensor([0]))
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_peft_refuses_a_template_with_the_item_first(world, tmp_path):
    ws = world["ws"]
    first = pipeline.fit_prompts(
        ws, world["data"], world["small"], template="rating-item-first", training=QUICK
    )
    with pytest.raises(TemplateError, match="rating or click"):
        pipeline.export_prompts(ws, first, tmp_path / "peft", form="peft", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_card_states_lineage_data_metrics_and_licence(world, tmp_path):
    folder = pipeline.export_adapter(
        world["ws"], world["moved"], tmp_path / "adapter", licence="MIT"
    )
    text = (folder / "README.md").read_text()
    front = text.split("---")[1]
    assert 'license: "mit"' in front and 'library_name: "puma-workbench"' in front
    for run in world["ws"].lineage(world["moved"].id):
        assert run.id in text
    metrics = world["ws"].metrics(world["score"].id)
    rmse = metrics[metrics["metric"] == "rmse"]["value"].iloc[0]
    assert f"| test | rmse | {rmse:.4f} |" in text
    assert world["data"].summary["content_hash"] in text


def test_names_in_a_card_are_escaped():
    facts = CardContent("a <script> | [x](y)", "adapter", {"name": "`rm` *b*"}, "m/x: y")
    text = model_card(facts)
    assert "\\<script\\> \\| \\[x\\](y)" in text and "\\`rm\\` \\*b\\*" in text
    assert 'base_model: "m/x: y"' in text


def test_an_adapter_folder_maps_like_its_migration(world, tmp_path):
    ws = world["ws"]
    read = read_adapter(pipeline.export_adapter(ws, world["moved"], tmp_path / "adapter"))
    source, moved = (pipeline.load_prompts(ws, world[name]) for name in ("source", "moved"))
    vectors = apply_adapter(read.network(), source.take(moved.user_ids))
    np.testing.assert_allclose(vectors, moved.vectors, atol=1e-5)
    assert read.config["target"]["width"] == 48 and read.config["sources"][0]["width"] == 32
    assert all(np.array_equal(read.head[name], moved.head[name]) for name in moved.head)


def test_an_adapter_round_trips_exactly_over_the_hub(world, tmp_path, monkeypatch):
    from huggingface_hub import constants

    store = tmp_path / "hub"
    hub = TinyHub({}, accepts=store)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    folder = pipeline.export_adapter(world["ws"], world["moved"], tmp_path / "adapter")
    (folder / "notes.txt").write_text("stays here")
    try:
        push_to_hub(folder, "me/adapter")
        loaded = from_hub("me/adapter")
    finally:
        hub.close()
    here = read_adapter(folder)
    assert loaded.config == here.config and loaded.revision is not None
    assert all(np.array_equal(loaded.tensors[name], here.tensors[name]) for name in here.tensors)
    assert not (store / "me/adapter/notes.txt").exists()
    assert hub.created == [("me/adapter", True)]


def test_a_folder_without_an_adapter_is_refused(world, tmp_path):
    with pytest.raises(MigrationError, match="holds no adapter"):
        read_adapter(world["small"])
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(MigrationError, match="nested too deep"):
        read_adapter(deep)
    with pytest.raises(StoreError, match="no adapter"):
        read_adapter(tmp_path / "nowhere")
    folder = pipeline.export_adapter(world["ws"], world["moved"], tmp_path / "adapter")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden": 99}))
    with pytest.raises(MigrationError, match="do not fit"):
        read_adapter(folder).network()
    with pytest.raises(StoreError, match="already something"):
        pipeline.export_adapter(world["ws"], world["moved"], folder)


@pytest.fixture
def server(world):
    """A server that answers prompt embeddings as vLLM does, with a real model."""
    backbone = FrozenBackbone.load(world["large"], device="cpu")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            raw = base64.b64decode(body["prompt_embeds"], validate=True)
            tensor = torch.load(io.BytesIO(raw), weights_only=True)
            assert tensor.ndim == 2 and body["max_tokens"] == 1
            with torch.no_grad():
                logits = backbone.model(inputs_embeds=tensor.unsqueeze(0)).logits[0, -1]
            allowed = body["allowed_token_ids"]
            values = torch.log_softmax(logits[allowed].float(), 0).tolist()
            top = {f"token_id:{t}": v for t, v in zip(allowed, values, strict=True)}
            answer = {"choices": [{"logprobs": {"top_logprobs": [top]}}]}
            unauthorised = self.headers["Authorization"] == "Bearer wrong"
            content = json.dumps({"error": "no"} if unauthorised else answer).encode()
            self.send_response(401 if unauthorised else 200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


def test_a_server_of_embeddings_predicts_like_the_engine(
    world, server, tmp_path, capsys, monkeypatch
):
    ws = world["ws"]
    frame = pipeline.read_predictions(ws, world["score"])
    expected = frame.head(9)
    pairs = list(zip(expected["user_id"], expected["item_id"], strict=True))
    file = pipeline.embed_prompts(
        ws, world["moved"], pairs, tmp_path / "p.safetensors", device="cpu"
    )
    assert vllm_client.main([str(file), "--url", server]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["user_id"], row["item_id"]) for row in rows] == pairs
    predictions = [float(row["prediction"]) for row in rows]
    np.testing.assert_allclose(predictions, expected["prediction"], atol=1e-3)
    monkeypatch.setenv("VLLM_API_KEY", "wrong")
    assert vllm_client.main([str(file), "--url", server]) == 1
    assert "answered 401" in capsys.readouterr().err


def test_a_single_pair_is_exported_as_a_request_for_curl(world, server, tmp_path):
    ws = world["ws"]
    file = pipeline.embed_prompts(
        ws,
        world["moved"],
        [("004", "new")],
        tmp_path / "r.json",
        texts=["A new book"],
        device="cpu",
    )
    body = json.loads(file.read_text())
    answer = vllm_client.complete(server, body)
    probabilities = np.exp(vllm_client.answer_logprobs(answer, body["allowed_token_ids"]))
    assert probabilities.sum() == pytest.approx(1, abs=1e-4)
    with pytest.raises(vllm_client.ServerError, match="processed_logprobs"):
        vllm_client.answer_logprobs({"choices": [{"logprobs": None}]}, [1])
    assert prompt_embeddings.NEXT_TOKEN["max_tokens"] == 1


@pytest.mark.parametrize(
    ("pairs", "name", "error", "message"),
    [
        ([("nobody", "i1")], "p.safetensors", MigrationError, "no prompt"),
        ([("004", "nothing")], "p.safetensors", DataError, "no item 'nothing'"),
        ([("004", "i1")], "p.txt", ConfigError, "must end in"),
        ([("004", "i1"), ("005", "i1")], "p.json", ConfigError, "takes one"),
        ([], "p.safetensors", ConfigError, "0 pairs"),
    ],
)
def test_pairs_that_cannot_be_embedded_are_refused(world, tmp_path, pairs, name, error, message):
    with pytest.raises(error, match=message):
        pipeline.embed_prompts(world["ws"], world["moved"], pairs, tmp_path / name, device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_pairs_are_read_from_tables(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("user_id,item_id,text,history\n007,NA,Dune,a|b\n008,i2,,\n")
    request = read_pairs(path)
    assert request.pairs == [("007", "NA"), ("008", "i2")]
    assert request.texts == ["Dune", None] and request.histories == [["a", "b"], []]
    path.write_text("user,item\n1,2\n")
    with pytest.raises(DataError, match="lacks the column user_id, item_id"):
        read_pairs(path)
    with pytest.raises(ConfigError):
        read_pairs(path, user="1")
    with pytest.raises(ConfigError):
        read_pairs(None, user="1")


def test_a_refused_export_leaves_nothing(world, tmp_path):
    ws, moved = world["ws"], world["moved"]
    for form, name, error in (
        ("zip", "p", ConfigError),
        ("parquet", "p.csv", ConfigError),
        ("numpy", "p.npy", ConfigError),
    ):
        with pytest.raises(error):
            pipeline.export_prompts(ws, moved, tmp_path / name, form=form)
    for unknown, message in ((["nobody"], "^1 user has no"), (["nobody", "x"], "^2 users have no")):
        with pytest.raises(MigrationError, match=f"{message} prompt in this table"):
            pipeline.export_prompts(ws, moved, tmp_path / "p", form="packed", users=unknown)
    assert list(tmp_path.iterdir()) == []


def test_an_import_for_another_backbone_is_refused(world, tmp_path):
    ws = world["ws"]
    path = pipeline.export_prompts(ws, world["moved"], tmp_path / "p.parquet", form="parquet")
    with pytest.raises(BackboneError, match="dimension 48"):
        pipeline.import_prompts(ws, world["data"], world["small"], path)
