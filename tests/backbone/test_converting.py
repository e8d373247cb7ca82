"""Models written as folders: dequantised from GGUF, and rounded to what GGUF's blocks can hold."""

import json

import pytest
import torch
from command_line import puma
from small_runs import QUICK, SMALL, write_ratings
from tiny import TEXTS, tiny_backbone_folder
from tiny_gguf import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from puma_engine import Workbench
from puma_engine.backbone import convert_model
from puma_engine.backbone.gguf_model import GgufModel
from puma_engine.backbone.loading import load_gguf_tokenizer, load_model, load_tokenizer
from puma_engine.errors import BackboneError, ConfigError, StoreError
from puma_engine.pipeline.comparing import method_cost
from puma_engine.pipeline.evaluating import method_kind, method_label

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """One model as a folder of full weights, and as a Q4_0 file with a chat template."""
    folder = tmp_path_factory.mktemp("versions")
    full = tiny_backbone_folder(folder, "llama")
    tokenizer = AutoTokenizer.from_pretrained(full)
    tokenizer.chat_template = CHAT
    model = AutoModelForCausalLM.from_pretrained(full)
    return full, write_gguf(folder / "tiny-Q4_0.gguf", model, tokenizer, quantised="Q4_0")


def weights(path):
    model = load_model(path, torch.float32, "cpu")
    return {name: weight.clone() for name, weight in model.named_parameters()}


def test_a_gguf_file_becomes_a_folder_with_the_same_weights_and_tokens(versions, tmp_path):
    _, file = versions
    facts = convert_model(file, tmp_path / "whole", precision="fp32")
    assert facts["bytes"] == sum(f.stat().st_size for f in (tmp_path / "whole").iterdir())
    assert facts["licence"] == "mit" and facts["rounded_weights"] == 0
    written, expected = weights(tmp_path / "whole"), weights(GgufModel([file]))
    assert list(written) == list(expected)
    for name, weight in written.items():
        torch.testing.assert_close(weight, expected[name], atol=0, rtol=0)
    expected_tokenizer, tokenizer = (
        load_gguf_tokenizer(GgufModel([file])),
        load_tokenizer(tmp_path / "whole"),
    )
    for text in (*TEXTS, "Dune by Frank Herbert", "1984 <|user|> </s>"):
        assert expected_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == CHAT
    convert_model(file, tmp_path / "half")
    in_bf16 = weights(tmp_path / "half")
    for name, weight in in_bf16.items():
        torch.testing.assert_close(weight, written[name].bfloat16().float(), atol=0, rtol=0)


def test_rounding_full_weights_gives_those_of_a_quantised_file(versions, tmp_path):
    full, file = versions
    options = ("--precision=fp32", "--round-to=Q4_0")
    printed = puma(None, "models", "convert", full, tmp_path / "rounded", *options)
    rounded, quantised, full_weights = (
        weights(tmp_path / "rounded"),
        weights(GgufModel([file])),
        weights(full),
    )
    for name, weight in rounded.items():
        torch.testing.assert_close(weight, quantised[name], atol=0, rtol=0)
    matrices = [weight for weight in full_weights.values() if weight.dim() == 2]
    assert printed["rounded_weights"] == sum(w.numel() for w in matrices)
    assert all((rounded[n] != w).any() for n, w in full_weights.items() if w.dim() == 2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"round_to": "Q4_K"}, BackboneError, "rounded to Q4_0, .*, not Q4_K"),
        ({"precision": "int8"}, BackboneError, "stored as bf16, fp16, fp32, not int8"),
        ({"folder": "."}, StoreError, "already something at"),
        ({"spec": "nothing.gguf"}, BackboneError, "no backbone 'nothing.gguf'"),
    ],
)
def test_invalid_conversions_are_refused_and_leave_no_files(
    versions, tmp_path, settings, error, message
):
    (tmp_path / "there").mkdir()
    chosen = {"spec": versions[0], "folder": "new"} | settings
    folder = tmp_path / "there" / chosen.pop("folder")
    with pytest.raises(error, match=message):
        convert_model(chosen.pop("spec"), folder, **chosen)
    assert not list((tmp_path / "there").iterdir())


def test_prompts_migrate_from_a_quantised_file_to_the_unquantised_model(versions, tmp_path):
    full, file = versions
    bench = Workbench(tmp_path / "ws", create=True)
    bench.import_dataset("table", path=write_ratings(tmp_path / "r.csv"), task="rating", name="r")
    old, new = bench.add_backbone(file, name="q4"), bench.add_backbone(full, name="whole")
    assert old.config["fingerprint"] != new.config["fingerprint"]
    source = bench.fit_prompts("r", old, training=QUICK, name="source")
    moved = bench.migrate(source, new, training=QUICK, adapter=SMALL)
    assert moved.inputs["backbone"] == new.id
    on_source = bench.evaluate(source)
    reused = bench.evaluate(source, backbone=new)
    printed = puma(bench.workspace, "evaluate", "source", "--backbone", "whole")
    assert printed["id"] == reused.id
    assert reused.id != on_source.id and "backbone" not in on_source.inputs
    assert method_kind(reused) == "reused" and method_cost(bench.workspace, reused)["seconds"] == 0
    assert method_label(bench.workspace, reused) == "Prompts reused as they are"
    source_predictions, reused_predictions = (
        bench.predictions(run)["prediction"] for run in (on_source, reused)
    )
    # Q4_0 changes predictions a little.
    assert 0 < (source_predictions - reused_predictions).abs().max() < 1.5
    same = bench.evaluate(source, backbone=old)
    torch.testing.assert_close(
        torch.tensor(bench.predictions(same)["prediction"].to_numpy()),
        torch.tensor(source_predictions.to_numpy()),
    )
    bench.compare([on_source, reused, bench.evaluate(moved)], name="change")
    other = tiny_backbone_folder(tmp_path, "qwen2", width=48)
    with pytest.raises(ConfigError, match="have 32 numbers a token, and 'qwen2' reads 48"):
        bench.evaluate(source, backbone=other)
    with pytest.raises(ConfigError, match="No language model reads the baseline"):
        bench.evaluate("item_mean", dataset="r", backbone=new)


def test_the_study_of_changes_compares_both_directions_and_another_wording(versions, tmp_path):
    full, file = versions
    models = [f"--source={file}", f"--target={full}", "--dataset=movietweetings"]
    arguments = ["study", "changes", *models, "--users=6", "--seed=0", f"--out={tmp_path}"]
    puma(None, *arguments, "-w", tmp_path / "ws")
    rows = json.loads((tmp_path / "changes.json").read_text())["rows"]
    by_change = {}
    for row in rows:
        by_change.setdefault(row["change"], {})[row["method"]] = row
    assert list(by_change) == ["source to target", "target to source", "source to other words"]
    for change in by_change.values():
        assert len(change) == 7 and {row["kind"] for row in change.values()} == {
            *("source", "reused", "refined", "retrained", "random", "migrated"),
        }
        assert change["reused as they are"]["rmse"] != change["source"]["rmse"]
        assert change["reused, refined"]["flops"] > 0 == change["reused as they are"]["flops"]
    forward, backward = by_change["source to target"], by_change["target to source"]
    assert forward["retrained"]["rmse"] == backward["source"]["rmse"]
    assert forward["source"]["rmse"] == backward["retrained"]["rmse"]
    # Every row is compared with the retraining of the same change.
    differences = json.loads((tmp_path / "changes.json").read_text())["differences"]
    lines = {
        line[1]: line
        for line in (
            [cell.strip() for cell in line.split("|")]
            for line in (tmp_path / "changes.md").read_text().splitlines()
        )
        if len(line) > 5
    }
    for line in differences:
        of_change = by_change[line["change"]]
        expected = of_change[line["method"]]["rmse"] - of_change["retrained"]["rmse"]
        assert line["value"] == pytest.approx(expected)
        if line["method"] == "reused as they are":
            assert f"{line['value']:+.4f}" in lines[f"reused as they are, {line['change']}"][5]
