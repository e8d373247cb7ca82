"""GGUF files as models: every architecture that is read, split files, quantisation, refusals."""

import json
import re

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from tiny import TEXTS, tiny_backbone_folder, tiny_tokenizer
from tiny_gguf import write_gguf

from puma_engine import pipeline
from puma_engine.backbone import FrozenBackbone, inspect_backbone, loading, model
from puma_engine.backbone.gguf_header import HeaderReader
from puma_engine.backbone.gguf_model import MODEL_TYPES, GgufModel, find_parts
from puma_engine.backbone.loading import load_model, locate
from puma_engine.errors import BackboneError
from puma_engine.store import Workspace

t = transformers
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 20_000.0,
    "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 128,
    "factor": 4.0,
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 3.0],
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 90_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
}


def theta(value, **other):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": value} | other}


# No setting has its default value, so a setting that is not read would change the logits.
CASES = {
    "llama": (t.LlamaConfig, theta(50_000.0) | {"head_dim": 16}),
    "llama-biased": (t.LlamaConfig, theta(9e4) | {"attention_bias": True, "mlp_bias": True}),
    "llama-3": (t.LlamaConfig, {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "qwen2": (t.Qwen2Config, theta(70_000.0)),
    "qwen2-yarn": (
        t.Qwen2Config,
        theta(7e4, rope_type="yarn", factor=4.0, original_max_position_embeddings=128),
    ),
    "qwen3": (t.Qwen3Config, theta(80_000.0) | {"head_dim": 16}),
    "gemma": (t.GemmaConfig, theta(20_000.0) | {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": (
        t.Gemma2Config,
        theta(30_000.0)
        | {"head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 3.0}
        | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16},
    ),
    "gemma3": (
        t.Gemma3TextConfig,
        {"rope_parameters": GEMMA3_ROPE, "head_dim": 16, "query_pre_attn_scalar": 16}
        | {"sliding_window": 8, "num_hidden_layers": 6},
    ),
    "phi3": (t.Phi3Config, theta(40_000.0) | {"sliding_window": 9, "tie_word_embeddings": False}),
    "phi3-partial": (t.Phi3Config, theta(4e4, partial_rotary_factor=0.5)),
    "phi3-long": (
        t.Phi3Config,
        {"rope_parameters": LONG, "original_max_position_embeddings": 128},
    ),
    "stablelm": (
        t.StableLmConfig,
        theta(20_000.0, partial_rotary_factor=0.5) | {"layer_norm_eps": 1e-3, "use_qkv_bias": True},
    ),
    "stablelm-parallel": (t.StableLmConfig, theta(3e4) | {"use_parallel_residual": True}),
    "gpt2": (t.GPT2Config, {"layer_norm_epsilon": 1e-3, "n_inner": 96}),
}
KINDS = {"gemma": "metaspace", "phi3": "metaspace-prefix", "qwen2": "bytes-no-bos"}


def random_model(case, tokenizer, **changes):
    """A model of a case with weights that make every part of it count."""
    kind, settings = CASES[case]
    shape = SHAPE | settings | {"vocab_size": len(tokenizer) + 7} | changes
    torch.manual_seed(7)
    built = t.AutoModelForCausalLM.from_config(kind(**shape)).eval().requires_grad_(False)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, mean=0.1 * (parameter.dim() == 1), std=0.3)
    return built


def tensors_of(case, built):
    """Frequency factors, which llama.cpp stores as tensors."""
    if case == "llama-3":
        scaled = built.model.rotary_emb.inv_freq
        steps = torch.arange(len(scaled)) / len(scaled)
        return {"rope_freqs.weight": (LLAMA3["rope_theta"] ** -steps / scaled).float().numpy()}
    if case == "phi3-long":
        names = ("short", "long")
        factors = {n: torch.tensor(LONG[f"{n}_factor"]).numpy() for n in names}
        return {f"rope_factors_{name}.weight": factors[name] for name in names}
    return {}


def written(folder, case, **options):
    tokenizer = tiny_tokenizer(KINDS.get(case.partition("-")[0].rstrip("23"), "bytes-bos"))
    built = random_model(case, tokenizer)
    path = write_gguf(
        folder / f"{case}.gguf", built, tokenizer, tensors=tensors_of(case, built), **options
    )
    return path, built, tokenizer


def weights_of(path, dtype=torch.float32):
    """The weights that are loaded from a file, by transformers' names."""
    return load_model(GgufModel(find_parts(path)), dtype, "cpu").state_dict()


@pytest.mark.parametrize("case", CASES)
def test_a_gguf_file_is_the_model_that_was_written(case, tmp_path):
    path, built, tokenizer = written(tmp_path, case)
    backbone = FrozenBackbone.load(path, device="cpu")
    ids = torch.randint(2, len(tokenizer), (2, 40), generator=torch.Generator().manual_seed(0))
    expected, actual = built(ids).logits, backbone.model(ids).logits
    assert expected.std() > 1e-2
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)
    for text in TEXTS:
        assert backbone.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert backbone.info.file_type == "F32" and backbone.info.licence == "mit"
    assert loading.weight_bytes(locate(path).shapes(), "fp32") == backbone.info.memory_bytes


def test_every_architecture_is_written_and_read():
    assert {case.partition("-")[0] for case in CASES} == set(MODEL_TYPES)


@pytest.fixture(scope="module")
def single_file(tmp_path_factory):
    """A tiny Llama as one file, with the model and the tokenizer that were written."""
    return written(tmp_path_factory.mktemp("whole"), "llama")


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1", "Q5_0"])
def test_quantised_weights_are_the_values_that_llama_cpp_reads(kind, tmp_path):
    path, built, _ = written(tmp_path, "qwen2", quantised=kind)
    backbone = FrozenBackbone.load(path, device="cpu")
    assert backbone.info.file_type == kind
    stored, loaded = GGMLQuantizationType[kind], weights_of(path)
    for name, weight in built.named_parameters():
        if weight.dim() == 2:
            rounded = dequantize(quantize(weight.numpy(), stored), stored)
            assert torch.equal(loaded[name], torch.from_numpy(rounded).float())
            assert not torch.equal(loaded[name], weight)


def test_a_file_is_loaded_in_the_requested_precision(single_file):
    path, built, _ = single_file
    loaded_bf16 = FrozenBackbone.load(path, device="cpu", precision="bf16")
    assert loaded_bf16.info.dtype == "bf16" and loaded_bf16.dtype == torch.bfloat16
    assert loading.weight_bytes(locate(path).shapes(), "bf16") == loaded_bf16.info.memory_bytes
    loaded = weights_of(path, torch.bfloat16)
    for name, weight in built.named_parameters():
        assert torch.equal(loaded[name], weight.bfloat16())


def test_a_split_model_equals_the_single_file(single_file, tmp_path):
    _, built, tokenizer = single_file
    first = write_gguf(tmp_path / "tiny.gguf", built, tokenizer, parts=3)
    parts = sorted(tmp_path.iterdir())
    assert first == parts[0] and len(parts) == 3
    for spec in (first, parts[2], tmp_path):
        loaded = weights_of(spec)
        for name, weight in built.named_parameters():
            assert torch.equal(loaded[name], weight)
    ws = Workspace.open(tmp_path / "ws", create=True)
    run = pipeline.add_backbone(ws, parts[1], device="cpu")
    assert (run.config["spec"], run.name) == (str(first), "tiny")
    parts[2].write_bytes(parts[2].read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(BackboneError, match="changed since it was added"):
        pipeline.load_backbone(ws, run, device="cpu")
    parts[1].unlink()
    with pytest.raises(BackboneError, match=r"split into 3 files, of which 1 .*00002-of-00003"):
        FrozenBackbone.load(first)


def test_a_folder_with_several_files_is_refused(single_file, tmp_path):
    path = single_file[0]
    (tmp_path / "one.gguf").write_bytes(path.read_bytes())
    assert find_parts(tmp_path) == [tmp_path / "one.gguf"]
    (tmp_path / "two.gguf").write_bytes(path.read_bytes())
    with pytest.raises(BackboneError, match=r"holds 2 GGUF models \(one.gguf, two.gguf\)"):
        FrozenBackbone.load(tmp_path)
    assert find_parts(tmp_path / "two.gguf") == [tmp_path / "two.gguf"]


def test_a_folder_of_safetensors_stays_one_beside_a_gguf_file(single_file, tmp_path):
    folder = tiny_backbone_folder(tmp_path, "qwen2")
    (folder / "other.gguf").write_bytes(single_file[0].read_bytes())
    assert locate(folder).gguf is None and locate(folder / "other.gguf").gguf is not None


def test_a_file_without_a_suffix_is_recognised_by_its_content(single_file, tmp_path):
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(single_file[0].read_bytes())
    assert FrozenBackbone.load(blob, device="cpu").info.family == "llama"


def test_a_quantised_model_and_the_unquantised_one_are_different_backbones(single_file, tmp_path):
    ws = Workspace.open(tmp_path / "ws", create=True)
    small = written(tmp_path, "llama", quantised="Q4_1")[0]
    messages = []
    runs = [
        pipeline.add_backbone(ws, path, device="cpu", progress=messages.append)
        for path in (single_file[0], small)
    ]
    assert re.fullmatch(r"loading 0\.\d MiB of weights in fp32, .* are free", messages[1].stage)
    assert runs[0].id != runs[1].id
    assert [run.summary["file_type"] for run in runs] == ["F32", "Q4_1"]
    again = pipeline.add_backbone(ws, small, device="cpu")
    assert again.id == runs[1].id
    data = bytearray(small.read_bytes())
    data[-len(data) // 4] ^= 1
    small.write_bytes(data)
    with pytest.raises(BackboneError, match="changed since it was added"):
        pipeline.load_backbone(ws, runs[1], device="cpu")


def test_a_tokenizer_beside_the_file_is_used_and_belongs_to_the_model(single_file, tmp_path):
    path, _, tokenizer = single_file
    file = tmp_path / "tiny.gguf"
    file.write_bytes(path.read_bytes())
    ws = Workspace.open(tmp_path / "ws", create=True)
    without_tokenizer = pipeline.add_backbone(ws, file, device="cpu")
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    settings["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    assert FrozenBackbone.load(file, device="cpu").info.starts_with == ()
    assert list(without_tokenizer.summary["starts_with"]) == ["<s>"]
    assert pipeline.add_backbone(ws, file, device="cpu").id != without_tokenizer.id
    tiny_tokenizer("metaspace").backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BackboneError, match="belongs to another model"):
        FrozenBackbone.load(file, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": {"expert_count": 4}}, "mixture of experts"),
        ({"extra": {"block_count": 10**9}}, "names 1,000,000,000 layers"),
        ({"extra": {"rope.scaling.type": "su"}}, "scales rotary embeddings by 'su'"),
        ({"extra": {"attention.head_count_kv": [1, 2]}}, "different numbers of heads"),
        ({"tensors": {"blk.0.attn_q_norm.weight": torch.ones(8).numpy()}}, "1 weights that llama"),
        ({"tensors": {"rope_freqs.weight": torch.full((8,), 3.0).numpy()}}, "not those of Llama 3"),
    ],
)
def test_unsupported_files_are_refused(single_file, options, message, tmp_path):
    _, built, tokenizer = single_file
    path = write_gguf(tmp_path / "odd.gguf", built, tokenizer, **options)
    with pytest.raises(BackboneError, match=message):
        FrozenBackbone.load(path, device="cpu")


def test_an_architecture_that_is_not_read_is_named_with_those_that_are(single_file, tmp_path):
    data = single_file[0].read_bytes()
    path = tmp_path / "mamba.gguf"
    path.write_bytes(data.replace(b"llama", b"mamba"))
    with pytest.raises(BackboneError, match=r"architecture 'mamba'; .* llama, qwen2, "):
        FrozenBackbone.load(path, device="cpu")


@pytest.mark.parametrize("cut", [0, 3, 30, 2000, -1])
def test_a_damaged_file_is_refused(single_file, cut, tmp_path):
    path = tmp_path / "short.gguf"
    path.write_bytes(single_file[0].read_bytes()[:cut])
    with pytest.raises(BackboneError, match=r"not a complete GGUF file \(it ends .*download"):
        FrozenBackbone.load(path, device="cpu")


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(BackboneError, match=r"cannot be read \(No such file"):
        GgufModel([tmp_path / "gone.gguf"]).value("general.name")


def test_a_file_of_another_kind_is_named_as_such(tmp_path):
    path = tmp_path / "zipped.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(BackboneError, match=r"\(GGUF magic invalid\)"):
        FrozenBackbone.load(path, device="cpu")


def test_the_header_equals_that_of_the_reader_of_gguf(tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    texts = ["", "a", "Zoë 本", "x" * 1000]
    values = {
        "texts": texts,
        "numbers": [3, 1, 2**20],
        "scores": [0.5, -1.0],
        "flags": [True, False],
    }
    for key, value in values.items():
        writer.add_array(key, value)
    writer.add_string("name", "Tiny")
    writer.add_tensor("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, expected = HeaderReader(tmp_path / "m.gguf"), GGUFReader(tmp_path / "m.gguf")
    assert list(header.fields) == list(expected.fields)
    for key, field in expected.fields.items():
        assert header.fields[key].contents() == field.contents()
        assert header.fields[key].types == field.types
    assert {key: header.fields[key].contents() for key in values} == values
    assert np.array_equal(header.tensors[0].data, expected.tensors[0].data)
    content = (tmp_path / "m.gguf").read_bytes()
    position = content.index(b"texts") + len("texts") + 8
    for count in (5, 2**40, 2**64 - 1):
        # The array declares more texts than it has: one, or more than the file can hold.
        damaged = content[:position] + count.to_bytes(8, "little") + content[position + 8 :]
        (tmp_path / "wrong.gguf").write_bytes(damaged)
        with pytest.raises(BackboneError, match="not a complete GGUF file"):
            GgufModel([tmp_path / "wrong.gguf"]).value("texts")


def test_a_file_without_room_is_refused_before_its_weights_are_read(single_file, monkeypatch):
    monkeypatch.setattr(model, "free_bytes", lambda place: 10_000)
    with pytest.raises(BackboneError, match=r"take 0\.\d MiB, but cpu has 0\.0 MiB free"):
        FrozenBackbone.load(single_file[0], device="cpu")


def test_a_file_is_not_quantised_again(single_file):
    with pytest.raises(BackboneError, match="--quantise 8bit does not apply"):
        FrozenBackbone.load(single_file[0], device="cpu", quantise="8bit")


def test_a_missing_file_is_not_taken_for_a_hub_id():
    with pytest.raises(BackboneError, match="There is no backbone 'models/none.gguf'"):
        FrozenBackbone.load("models/none.gguf")


def test_unread_settings_of_a_file_are_on_its_card(single_file, tmp_path):
    _, built, tokenizer = single_file
    tokenizer.chat_template = "{{ raise_exception('run') }}"
    path = write_gguf(tmp_path / "new.gguf", built, tokenizer, extra={"attention.new": 3})
    tokenizer.chat_template = None
    data = path.read_bytes()
    path.write_bytes(data.replace(b"smollm", b"future"))
    warnings = inspect_backbone(path, device="cpu")["warnings"]
    assert any("llama.attention.new" in warning for warning in warnings)
    assert any("'future'" in warning for warning in warnings)
    assert any("chat template" in warning for warning in warnings)
