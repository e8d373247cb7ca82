"""Models from the hub and from elsewhere: pinned, offline, measured before they are loaded."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import plain_logits, tiny_backbone_folder, tiny_model, tiny_tokenizer
from tiny_hub import COMMIT, TinyHub

from puma_engine import pipeline
from puma_engine.backbone import Context, FrozenBackbone, Reader, inspect_backbone, loading, model
from puma_engine.backbone.loading import Source, describe, locate
from puma_engine.backbone.templates import get_template
from puma_engine.errors import BackboneError
from puma_engine.pipeline import backbones
from puma_engine.store import Workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_backbone_folder(tmp_path_factory.mktemp("models"), "qwen2")


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub on localhost with an empty download cache."""
    from huggingface_hub import constants

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"never read")
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "model.gguf").write_bytes(b"GGUF")
    gated = (403, "GatedRepo")
    serving = TinyHub(
        {"me/qwen": folder, "me/gated": gated, "me/pickled": pickled, "me/gguf": gguf}
    )
    monkeypatch.setattr(constants, "ENDPOINT", serving.url)
    template = serving.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield serving
    serving.close()


def test_a_hub_model_is_the_folders_model_at_a_pinned_commit(hub, folder, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    run = pipeline.add_backbone(ws, "me/qwen", device="cpu")
    assert run.config["revision"] == run.summary["revision"] == COMMIT
    loaded, here = pipeline.load_backbone(ws, run, device="cpu"), FrozenBackbone.load(folder)
    for name, tensor in here.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    assert pipeline.add_backbone(ws, "me/qwen", revision=COMMIT, device="cpu").id == run.id
    hub.requests.clear()
    FrozenBackbone.load("me/qwen", revision=COMMIT, device="cpu")
    assert hub.requests == []


def test_an_edited_file_of_the_hubs_cache_is_noticed(hub, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    run = pipeline.add_backbone(ws, "me/qwen", device="cpu")
    weights = next((tmp_path / "cache").rglob("model.safetensors")).resolve()
    before = weights.read_bytes()
    for start in ("added now", "added by an earlier version"):
        if start == "added by an earlier version":
            with ws.transaction() as db:
                db.execute("UPDATE backbones SET content_fingerprint = NULL")
        pipeline.load_backbone(ws, run, device="cpu")
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BackboneError, match="changed since it was added .* Delete .*me--qwen"):
            pipeline.load_backbone(ws, run, device="cpu")
        weights.write_bytes(before)
    pipeline.load_backbone(ws, run, device="cpu")
    # Fetched again, as the message says, the model is the one that was added.
    weights.write_bytes(before[:-1])
    shutil.rmtree(tmp_path / "cache" / "models--me--qwen")
    backbones.release_backbones()
    pipeline.load_backbone(ws, run, device="cpu")
    assert pipeline.add_backbone(ws, "me/qwen", device="cpu").id == run.id


def test_offline_reads_the_cache_without_any_request(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="offline mode is on"):
        locate("me/qwen")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    locate("me/qwen").fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    source = locate("me/qwen")
    assert source.commit == COMMIT and source.folder is not None and hub.requests == []


@pytest.mark.parametrize(
    ("spec", "revision", "message"),
    [
        ("me/gated", None, "accept its terms"),
        ("me/nobody", None, "or it is private"),
        ("me/qwen", "v9", "no revision 'v9'"),
        ("me/pickled", None, "pickled weights are never loaded"),
        ("me/gguf", None, "download one and give its path"),
        ("me/a b", None, "not a hub id"),
    ],
)
def test_hub_errors_are_explained(hub, spec, revision, message):
    with pytest.raises(BackboneError, match=message):
        FrozenBackbone.load(spec, revision=revision)


def test_an_unreachable_hub_is_reported(hub, monkeypatch):
    hub.close()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
    with pytest.raises(BackboneError, match="cannot be reached"):
        locate("me/qwen")


def test_a_model_without_room_is_refused_before_its_weights_are_fetched(hub, monkeypatch):
    monkeypatch.setattr(model, "free_bytes", lambda place: 10_000)
    with pytest.raises(BackboneError, match=r"take 0\.\d MiB, but cpu has 0\.0 MiB free"):
        FrozenBackbone.load("me/qwen", device="cpu")
    assert any(path.endswith(".safetensors") for path in hub.requests)
    assert locate("me/qwen").folder is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_estimate_equals_the_size_of_the_weights(folder, precision):
    shapes = locate(folder).shapes()
    loaded = FrozenBackbone.load(folder, device="cpu", precision=precision)
    assert loading.weight_bytes(shapes, precision) == loaded.info.memory_bytes
    assert loading.weight_bytes(shapes, "bf16", "4bit") < loading.weight_bytes(
        shapes, "bf16", "8bit"
    )


def test_shards_are_read_by_their_index_and_a_missing_one_is_named(folder, tmp_path):
    sharded = tmp_path / "sharded"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    loaded.save_pretrained(sharded, max_shard_size="50KB")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert locate(sharded).shapes() == locate(folder).shapes()
    next(iter(sorted(sharded.glob("*.safetensors")))).unlink()
    with pytest.raises(BackboneError, match="is not in"):
        FrozenBackbone.load(sharded)


def test_a_truncated_file_is_refused(folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"\x00\x01")
    with pytest.raises(BackboneError, match="not a complete safetensors file"):
        FrozenBackbone.load(broken)


def test_code_that_comes_with_a_model_is_never_run(folder, tmp_path):
    repository = tmp_path / "theirs"
    repository.mkdir()
    for file in folder.iterdir():
        (repository / file.name).write_bytes(file.read_bytes())
    config = json.loads((repository / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (repository / "config.json").write_text(json.dumps(config))
    (repository / "code.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    with pytest.raises(BackboneError, match="never run"):
        FrozenBackbone.load(repository)
    assert not (tmp_path / "ran").exists()


def edited(folder, target, **settings):
    """Copy a model's folder with other settings in its config.json."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | settings))
    return target


def test_a_folder_with_weights_and_an_adapter_is_refused(folder, tmp_path):
    """The weights may contain the adapter already, and transformers would add it again."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2)
    )
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                value.normal_()
    merged = edited(folder, tmp_path / "merged")
    tuned.save_pretrained(merged)
    tuned.merge_and_unload().save_pretrained(merged)
    with pytest.raises(BackboneError, match="remove the adapter's files"):
        FrozenBackbone.load(merged)
    for file in merged.glob("adapter_*"):
        file.unlink()
    weights = load_file(merged / "model.safetensors")
    loaded = FrozenBackbone.load(merged, precision="fp32").model.state_dict()
    adapted = [name for name in weights if "q_proj.weight" in name]
    assert adapted and all(torch.equal(loaded[name], weights[name]) for name in adapted)


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 10**7}, {"num_experts": 10**9}])
def test_more_layers_than_weights_are_refused_at_once(folder, tmp_path, settings):
    with pytest.raises(BackboneError, match=f"has {next(iter(settings))} = 1.* too few for that"):
        FrozenBackbone.load(edited(folder, tmp_path / "deep", **settings))


def test_json_that_is_nested_too_deep_is_refused(folder, tmp_path):
    deep = edited(folder, tmp_path / "deep")
    (deep / "config.json").write_text("[" * 100_000)
    with pytest.raises(BackboneError, match="nested too deep"):
        FrozenBackbone.load(deep)


def test_an_index_that_names_files_elsewhere_is_refused(folder, tmp_path):
    sharded = edited(folder, tmp_path / "sharded")
    (sharded / "model.safetensors").rename(sharded / "other.safetensors")
    index = {"weight_map": {"lm_head.weight": f"../{folder.name}/model.safetensors"}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BackboneError, match="names files elsewhere"):
        FrozenBackbone.load(sharded)


def frozen(built, tokenizer=None):
    torch.manual_seed(0)
    for parameter in built.eval().parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    info = describe(Source("theirs", None), built, "fp32", ())
    return FrozenBackbone(built, tokenizer or tiny_tokenizer("bytes-bos"), info)


SMALL = {"vocab_size": 704, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize("kind", ["GPTNeoX", "Granite", "Cohere", "Gemma2", "Mistral"])
def test_an_unlisted_architecture_works(kind):
    config = getattr(transformers, f"{kind}Config")(**SMALL, **HEADS)
    backbone = frozen(getattr(transformers, f"{kind}ForCausalLM")(config))
    assert backbone.width == 32


GEMMA4 = dict.fromkeys(("hidden_size_per_layer_input", "num_kv_shared_layers"), 0) | {
    "layer_types": ["sliding_attention", "full_attention"],
    "vocab_size_per_layer_input": SMALL["vocab_size"],
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def gemma4(**settings):
    if not hasattr(transformers, "Gemma4TextConfig"):
        pytest.skip("this version of transformers has no Gemma 4")
    return transformers.AutoModelForCausalLM.from_config(
        transformers.Gemma4TextConfig(**SMALL, **HEADS, **GEMMA4 | settings)
    )


def test_a_model_that_reads_tokens_by_their_embeddings_is_refused():
    """Such a model looks up a second embedding of each token, which a soft prompt lacks."""
    with pytest.raises(BackboneError, match="its part 'soft prompts' fails"):
        frozen(gemma4(hidden_size_per_layer_input=8))


def test_a_model_with_several_head_sizes_is_read_and_learns():
    backbone = frozen(gemma4(global_head_dim=16))
    reader = Reader(backbone, get_template("rating-item-first"), [Context("Dune"), Context("Emma")])
    prompts = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = torch.arange(2)
    logits = reader.logits(prompts, rows)
    torch.testing.assert_close(logits, plain_logits(reader, prompts, rows, "right"))
    logits.sum().backward()
    assert prompts.grad.abs().min() > 0
    # Two key-value heads, keys and values of 4 bytes, 8 numbers in one layer and 16 in the other.
    assert backbone.token_bytes == 2 * 2 * 4 * (8 + 16)


@pytest.mark.parametrize(
    ("kind", "built", "part"),
    [
        ("Bert", "BertLMHeadModel", "decoder and output head"),
        ("Rwkv", "RwkvForCausalLM", "cached keys and values"),
    ],
)
def test_the_part_that_fails_is_named(kind, built, part):
    sizes = SMALL if kind == "Rwkv" else SMALL | HEADS
    config = getattr(transformers, f"{kind}Config")(**sizes)
    with pytest.raises(BackboneError, match=f"cannot serve: its part '{part}'"):
        frozen(getattr(transformers, built)(config))


def test_a_model_that_ignores_input_embeddings_is_refused():
    built = tiny_model("llama", 704)
    inner = built.forward
    built.forward = lambda input_ids=None, inputs_embeds=None, **other: inner(
        input_ids=input_ids if input_ids is not None else torch.ones(1, 5, dtype=torch.long)
    )
    with pytest.raises(BackboneError, match="'reading input embeddings' works in a way"):
        frozen(built)


def test_a_model_that_overflows_is_refused():
    built = tiny_model("llama", 704)
    built.lm_head.weight.data.fill_(float("inf"))
    built.requires_grad_(False)
    info = describe(Source("theirs", None), built, "fp32", ())
    with pytest.raises(BackboneError, match="infinite or missing logits"):
        FrozenBackbone(built.eval(), tiny_tokenizer("bytes-bos"), info)


@pytest.mark.parametrize("missing", [5, 200])
def test_a_tokenizer_of_another_model_is_refused(tmp_path, missing):
    """Its vocabulary has `missing` tokens more than the model has embeddings."""
    path = tmp_path / "model"
    tokenizer = tiny_tokenizer("bytes-bos")
    tokenizer.save_pretrained(path)
    tiny_model("llama", len(tokenizer) - missing).save_pretrained(path)
    with pytest.raises(BackboneError, match="belongs to another model"):
        inspect_backbone(path, device="cpu")


def test_the_card_measures_speed_and_warns(folder):
    card = inspect_backbone(folder, device="cpu", seconds=0.2)
    speed = card["speed"]
    assert speed["training_examples_per_second"] > 0 < speed["prediction_examples_per_second"]
    assert any("puts no token in front" in warning for warning in card["warnings"])
    json.dumps(card)


def test_quantised_loading_without_its_package_is_reported(folder, monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="pip install bitsandbytes"):
        FrozenBackbone.load(folder, quantise="4bit")
    with pytest.raises(BackboneError, match="4bit or 8bit"):
        FrozenBackbone.load(folder, quantise="2bit")


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_quantised_models_are_smaller_and_still_agree_with_themselves(tmp_path, kind):
    pytest.importorskip("bitsandbytes")
    path = tiny_backbone_folder(tmp_path, "llama", width=64)
    unquantised = FrozenBackbone.load(path, device="cpu")
    quantised = FrozenBackbone.load(path, device="cpu", quantise=kind)
    assert quantised.info.quantised == kind
    assert quantised.info.parameters == unquantised.info.parameters
    assert quantised.info.memory_bytes < unquantised.info.memory_bytes


def test_spreading_needs_gpus(folder):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackboneError, match="over GPUs only"):
        FrozenBackbone.load(folder, device="spread")


def test_the_command_reports_the_error_and_exits_with_1(hub, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "puma_engine.cli", "models", "check", "me/qwen", "--offline"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 1 and hub.requests == []
    assert result.stderr.startswith("Error: The model me/qwen at main is not complete")
