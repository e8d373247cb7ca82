"""Published comparisons: the same in another workspace, read-only and marked."""

import dataclasses
import json
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from dashboard_pages import assert_plain, open_page, texts
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from puma_engine import pipeline
from puma_engine.cli import app
from puma_engine.errors import BackboneError, ConfigError, DataError, NotFoundError, StoreError
from puma_engine.jobs.tidying import leftovers, tidy
from puma_engine.pipeline import publishing
from puma_engine.pipeline.backbones import backbone_run
from puma_engine.pipeline.demo_files import add_shipped_comparisons
from puma_engine.pipeline.doctor import check_workspace
from puma_engine.pipeline.erasing import erase_user
from puma_engine.pipeline.publishing import check_models
from puma_engine.pipeline.verdicts import judge_comparison
from puma_engine.store import Workspace
from puma_engine.store.archives import main_run_of, write_archive
from puma_engine.store.rebuilding import rebuild

MODELS = "models of the origin"


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A workspace with a comparison of tiny models, and its archive."""
    folder = tmp_path_factory.mktemp("origin")
    ws = Workspace.open(folder / "workspace", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=write_ratings(folder / "ratings.csv"), task="rating", name="books"
    )
    small = tiny_backbone_folder(folder / MODELS, "llama")
    large = tiny_backbone_folder(folder / MODELS, "qwen2", width=48)
    source = pipeline.fit_prompts(ws, data, small, training=QUICK)
    retrained = pipeline.fit_prompts(ws, data, large, role="retrained", training=QUICK)
    random = pipeline.fit_prompts(ws, data, large, role="random", training=QUICK)
    on_few_users = pipeline.migrate(
        ws, source, large, strategy="random", share=0.5, training=QUICK, adapter=SMALL
    )
    tables = (source, retrained, random, on_few_users)
    compared = pipeline.compare(
        ws, [pipeline.evaluate(ws, run) for run in tables], baselines=True, name="real"
    )
    pipeline.project(ws, source, on_few_users, method="pca", clusters=3)
    file = folder / "real.zip"
    written = pipeline.publish(ws, compared, file, command="puma demo")
    # Other workspaces open the archive without the models.
    shutil.move(folder / MODELS, folder / "elsewhere")
    return {"ws": ws, "runs": tables, "comparison": compared, "file": file, "written": written}


@pytest.fixture
def opened(origin, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    pipeline.add_published(ws, origin["file"])
    return ws


def test_published_values_are_equal_and_prompts_are_rounded_to_16_bits(origin, opened):
    before, compared = origin["ws"], origin["comparison"]
    steps = before.lineage(compared.id)
    assert {run.id for run in steps} < {run.id for run in opened.runs()}
    assert [run.kind for run in opened.runs("projection")] == ["projection"]
    for run in steps:
        copy, facts = opened.run(run.id), dict(opened.run(run.id).summary)
        published = facts.pop("published")
        assert facts == run.summary and published["comparison"] == compared.id
        same = (
            "kind",
            "name",
            "config",
            "inputs",
            "seed",
            "versions",
            "device",
            "finished",
            "cost",
        )
        assert all(getattr(copy, name) == getattr(run, name) for name in same)
        names = {row["name"] for row in opened.artifacts(run.id)}
        assert names | set(published["left_out"]) == {
            row["name"] for row in before.artifacts(run.id)
        }
        for row in opened.artifacts(run.id):
            if row["format"] == "parquet":
                pd.testing.assert_frame_equal(
                    opened.get_table(run.id, row["name"]), before.get_table(run.id, row["name"])
                )
    for run in origin["runs"]:
        table, first = (pipeline.load_prompts(ws, run.id) for ws in (opened, before))
        assert table.vectors.dtype == np.float32
        np.testing.assert_array_equal(table.vectors, first.vectors.astype(np.float16))
        reader = pipeline.PromptTableReader(opened, run.id)
        np.testing.assert_array_equal(reader.vector("007"), table.take(["007"])[0])
        assert all((table.head[name] == first.head[name]).all() for name in first.head)
    verdicts = [judge_comparison(ws, ws.run(compared.id)) for ws in (opened, before)]
    assert verdicts[0].headline == verdicts[1].headline
    assert opened.verify() == [] and opened.scrub() == [] and leftovers(opened) == []
    opened.close()
    (opened.root / "puma.db").unlink()
    rebuild(opened.root)
    assert Workspace.open(opened.root).run("real").published["command"] == "puma demo"


def test_metrics_of_users_are_in_the_database(origin, opened):
    for run in opened.runs("evaluation"):
        pd.testing.assert_frame_equal(
            opened.user_metrics(run.id), origin["ws"].user_metrics(run.id), check_exact=True
        )


def test_a_published_run_records_where_it_was_measured(origin, opened):
    published = opened.run("real").published
    assert published["name"] == "real" and published["device"] == "cpu"
    assert published["date"] == origin["comparison"].finished
    assert published["versions"] == origin["comparison"].versions
    assert {model["name"] for model in published["models"]} == {"llama", "qwen2"}
    assert all(model["fingerprint"] and model["parameters"] for model in published["models"])
    assert origin["comparison"].published is None


def test_a_size_limit_leaves_out_prompts_of_controls_first(origin, tmp_path):
    ws, (source, _, random, on_few_users) = origin["ws"], origin["runs"]
    complete = origin["written"]
    assert (
        complete.left_out == {on_few_users.id: ["adapter"]}
        and complete.bytes == complete.file.stat().st_size
    )
    limit = (complete.bytes - 1000) / (1 << 20)
    smaller = pipeline.publish(
        ws, "real", tmp_path / "less.zip", command="puma demo", most_mib=limit
    )
    assert smaller.bytes < complete.bytes
    assert smaller.left_out == {on_few_users.id: ["adapter"], random.id: ["prompts"]}
    other = Workspace.open(tmp_path / "other", create=True)
    pipeline.add_published(other, smaller.file)
    with pytest.raises(NotFoundError, match="has no prompts"):
        pipeline.load_prompts(other, random.id)
    assert pipeline.load_prompts(other, source.id).tokens == 1
    with pytest.raises(StoreError, match="more than the 0.001 allowed"):
        pipeline.publish(ws, "real", tmp_path / "none.zip", most_mib=0.001)
    assert not (tmp_path / "none.zip").exists()


def test_second_prompt_tables_of_a_kind_are_left_out_before_controls(origin):
    ws, tables = origin["ws"], origin["runs"]
    compared = origin["comparison"]
    runs = ws.lineage(compared.id)
    order = publishing._by_priority(ws, compared, runs)
    source, retrained, random, on_few_users = tables
    assert [run.id for run in order] == [
        run.id for run in (random, retrained, on_few_users, source)
    ]
    second = dataclasses.replace(retrained, id="0" * 16)
    assert publishing._by_priority(ws, compared, [*runs, second])[0] == second


def test_published_runs_are_not_deleted_by_accident(origin, opened):
    source = origin["runs"][0]
    for run in (opened.run("real"), opened.run(source.id)):
        with pytest.raises(StoreError, match="puma published remove"):
            opened.delete(run.id)
        with pytest.raises(StoreError, match="puma published remove"):
            opened.delete_all(run.id)
    selection = pipeline.select(opened, source.id, strategy="random", budget=3)
    removed = pipeline.remove_published(opened, "real")
    assert {run.id for run in opened.runs()} == {selection.id} | {
        run.id for run in opened.lineage(selection.id)
    }
    assert source.id not in {run.id for run in removed}
    with pytest.raises(NotFoundError):
        pipeline.remove_published(opened, "real")
    opened.delete(selection.id)
    pipeline.add_published(opened, origin["file"])
    pipeline.remove_published(opened, "real")
    assert opened.runs() == [] and list((opened.root / "runs").iterdir()) == []


def test_a_missing_model_is_reported_by_commands_and_jobs(origin, opened):
    on_few_users = origin["runs"][-1]
    target, source = on_few_users.inputs["backbone"], origin["runs"][0]
    for command, args in (
        ("fit_prompts", {"dataset": "books", "backbone": target}),
        ("migrate", {"sources": [source.id], "target": target}),
        ("evaluate", {"subject": on_few_users.id}),
    ):
        with pytest.raises(BackboneError, match="not on this machine"):
            check_models(opened, command, args)
    check_models(opened, "compare", {"evaluations": list(opened.run("real").inputs.values())})
    with pytest.raises(BackboneError, match="viewed, compared and exported"):
        pipeline.predict_title(opened, on_few_users.id, "007", "Dune")
    with pytest.raises(BackboneError, match="not on this machine"):
        pipeline.evaluate(opened, on_few_users.id, split="validation")
    assert all(row["status"] == "ok" for row in check_workspace(opened))
    rows = [row for row in check_workspace(opened, scrub=True) if row["check"] == "model"]
    assert [row["status"] for row in rows] == ["warn", "warn"]


def test_the_spec_of_a_model_means_the_local_one(origin, opened, tmp_path):
    model = tiny_backbone_folder(tmp_path, "qwen2", width=32)
    published = opened.run(origin["runs"][-1].inputs["backbone"])
    local = pipeline.add_backbone(opened, model)
    assert local.name == published.name and local.id != published.id
    assert backbone_run(opened, "qwen2").id == local.id
    assert backbone_run(opened, published.id).id == published.id


def test_local_runs_stay_and_published_ones_can_be_compared_and_exported(origin, opened, tmp_path):
    again = pipeline.add_published(opened, origin["file"])
    assert again.added == [] and len(again.present) == len(opened.runs())
    added_to_origin = pipeline.add_published(origin["ws"], origin["file"])
    assert added_to_origin.added == [] and origin["ws"].run("real").published is None
    pair = [run.id for run in opened.runs("evaluation")][:2]
    assert pipeline.compare(opened, pair).published is None
    pipeline.write_report(opened, "real", tmp_path / "report.html")
    assert "puma demo" in (tmp_path / "report.html").read_text()
    table = pipeline.export_prompts(opened, origin["runs"][0].id, tmp_path / "p.safetensors")
    assert table.is_file()


def test_erasing_reaches_published_runs(origin, opened):
    erased = erase_user(opened, "007")
    assert any("real" in name for name in erased.runs)
    assert "007" not in pipeline.load_prompts(opened, origin["runs"][0].id).user_ids
    assert opened.verify() == [] and opened.run("real").published["name"] == "real"
    tidy(opened)
    assert opened.verify() == []
    pipeline.add_published(opened, origin["file"])
    assert "007" not in pipeline.load_prompts(opened, origin["runs"][0].id).user_ids


def changed(file, target, **members):
    """Copy an archive with other members; None leaves one out."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = members.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name in set(members) - set(old.namelist()):
            new.writestr(name, members[name])
    return target


def test_damaged_and_hostile_archives_add_nothing(origin, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    file, target = origin["file"], tmp_path / "bad.zip"
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        record = next(name for name in names if name.endswith("run.json"))
        table = next(name for name in names if name.endswith(".parquet"))
        content = archive.read(table)
    flipped = bytes([content[0] ^ 1]) + content[1:]
    outside = {"sha256": "0" * 64, "bytes": 1}
    escaping = manifest | {"members": manifest["members"] | {"runs/../../evil": outside}}
    newer = json.dumps(manifest | {"format": 2})
    cases = [
        ({table: None}, "not those of its manifest"),
        ({table: flipped}, "was changed"),
        ({record: b"{}"}, "not those of its manifest"),
        ({"extra": b"x"}, "not those of its manifest"),
        (
            {"runs/../../evil": b"x", "manifest.json": json.dumps(escaping)},
            "not a run id|not a file of a",
        ),
        ({"manifest.json": newer}, "update this program"),
        ({"manifest.json": "[]"}, "is damaged"),
        ({"manifest.json": None}, "not an archive of runs"),
    ]
    for members, reason in cases:
        with pytest.raises(StoreError, match=reason):
            pipeline.add_published(ws, changed(file, target, **members))
    target.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(StoreError, match="cannot be read"):
        pipeline.add_published(ws, target)
    with pytest.raises(StoreError, match="no archive"):
        pipeline.add_published(ws, tmp_path / "missing.zip")
    assert ws.runs() == [] and not list(ws.root.glob(".archive*"))


def test_an_archive_of_unmarked_runs_is_refused(origin, tmp_path):
    write_archive(origin["ws"], origin["comparison"].id, tmp_path / "plain.zip")
    ws = Workspace.open(tmp_path / "workspace", create=True)
    with pytest.raises(StoreError, match="not marked as published"):
        pipeline.add_published(ws, tmp_path / "plain.zip")


@pytest.mark.parametrize("facts", [None, [], "elsewhere"])
def test_a_published_mark_without_facts_is_refused(origin, tmp_path, facts):
    """Without facts a published run would look like one that was measured on this machine."""
    staged = Workspace.open(tmp_path / "staged", create=True)
    pipeline.add_published(staged, origin["file"])
    for run in staged.runs():
        staged.rewrite_summary(run.id, run.summary | {"published": facts})
    write_archive(staged, origin["comparison"].id, tmp_path / "forged.zip")
    ws = Workspace.open(tmp_path / "workspace", create=True)
    with pytest.raises(StoreError, match="not marked as published"):
        pipeline.add_published(ws, tmp_path / "forged.zip")
    assert ws.runs() == []


def test_an_archive_too_large_for_the_disk_adds_nothing(origin, tmp_path, monkeypatch):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    with zipfile.ZipFile(origin["file"]) as archive:
        need = sum(info.file_size for info in archive.infolist())
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=2 * need - 1))
    with pytest.raises(StoreError, match=f"unpacks to {need:,} bytes, more than half"):
        pipeline.add_published(ws, origin["file"])
    assert ws.runs() == [] and not list(ws.root.glob(".archive*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=2 * need))
    assert pipeline.add_published(ws, origin["file"]).added


def test_an_archive_above_the_size_limit_adds_nothing(origin, tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    with zipfile.ZipFile(origin["file"]) as archive:
        need = sum(info.file_size for info in archive.infolist()) / (1 << 20)
    with pytest.raises(
        StoreError, match=r"unpacks to [\d,.]+ MiB, more than the [\d,.]+ allowed; .*--max-mib"
    ):
        pipeline.add_published(ws, origin["file"], most_mib=need - 1e-5)
    with pytest.raises(ConfigError, match="above 0 MiB"):
        pipeline.add_published(ws, origin["file"], most_mib=0)
    assert ws.runs() == [] and not list(ws.root.glob(".archive*"))
    assert pipeline.add_published(ws, origin["file"], most_mib=need).added


def test_an_archive_whose_tables_need_far_more_memory_than_disk_adds_nothing(
    origin, tmp_path, monkeypatch
):
    staged = Workspace.open(tmp_path / "staged", create=True)
    pipeline.add_published(staged, origin["file"])
    data = staged.runs(kind="dataset")[0]
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(3_000)], "text": "x" * 20_000})
    staged.rewrite_table(data.id, "items", items)
    write_archive(staged, origin["comparison"].id, tmp_path / "bomb.zip")
    assert (tmp_path / "bomb.zip").stat().st_size < 1 << 20
    monkeypatch.setattr("puma_engine.datasets.reading.parquet_files.MAX_UNPACKED", 1 << 20)
    ws = Workspace.open(tmp_path / "workspace", create=True)
    with pytest.raises(DataError, match="items.* unpacks to 60,0"):
        pipeline.add_published(ws, tmp_path / "bomb.zip")
    assert ws.runs() == [] and not list(ws.root.glob(".archive*"))
    assert pipeline.add_published(ws, origin["file"]).added


def test_an_archive_that_is_published_again_says_how_it_was_measured(origin, opened, tmp_path):
    on_few_users = origin["runs"][-1]
    again = pipeline.publish(opened, "real", tmp_path / "again.zip")
    assert again.left_out[on_few_users.id] == ["adapter"]
    other = Workspace.open(tmp_path / "other", create=True)
    pipeline.add_published(other, again.file)
    before, after = (ws.run("real").published for ws in (opened, other))
    assert after == before
    with pytest.raises(NotFoundError, match="has no adapter"):
        other.get_tensors(on_few_users.id, "adapter")


def test_the_demo_adds_shipped_runs_once(origin, tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_DATA", str(tmp_path))
    (tmp_path / "demo").mkdir()
    shutil.copy(origin["file"], tmp_path / "demo")
    ws = Workspace.open(tmp_path / "workspace", create=True)
    add_shipped_comparisons(ws)
    add_shipped_comparisons(ws)
    assert [run.id for run in ws.runs("comparison")] == [main_run_of(origin["file"])]


def test_publish_and_published_commands(origin, tmp_path):
    def puma(*arguments, root=tmp_path / "other"):
        result = CliRunner().invoke(app, [*map(str, arguments), "--workspace", str(root), "--json"])
        return json.loads(result.output) if result.exit_code == 0 else result

    file = tmp_path / "out.zip"
    written = puma("publish", "real", "--out", file, "--command", "x", root=origin["ws"].root)
    assert written["bytes"] == file.stat().st_size
    assert puma("published", "add", file)["name"] == "real"
    (row,) = puma("published", "list")
    assert row["summary"]["published"]["command"] == "x"
    root = str(tmp_path / "other")
    table = CliRunner().invoke(app, ["published", "list", "--workspace", root]).output
    date = row["summary"]["published"]["date"]
    assert date[:19] in table and "." in date and date[:20] not in table
    refused = puma("runs", "delete", "real", "--yes")
    assert refused.exit_code == 1 and "puma published remove" in refused.output
    assert len(puma("published", "remove", "real", "--yes")["deleted"]) == written["runs"]


@pytest.mark.parametrize("name", ["overview", "compare", "users", "models", "data"])
def test_pages_show_a_published_comparison(name, opened, monkeypatch):
    page = open_page(name, opened.root, monkeypatch)
    assert_plain(page)
    assert not page.error, [error.value for error in page.error]
    if name in ("compare", "users"):
        assert "Published" in texts(page)
