"""The item cache: keys and values of items on disk between runs, which change no result."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.errors import ConfigError
from puma_engine.jobs.tidying import leftovers, tidy
from puma_engine.pipeline import item_cache
from puma_engine.pipeline.backbones import release_backbones
from puma_engine.pipeline.comparing import method_cost
from puma_engine.pipeline.erasing import erase_user
from puma_engine.store import Workspace
from puma_engine.store.backups import backup


def cached_files(ws):
    return sorted((ws.root / "cache").rglob("*.kv"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return write_ratings(folder / "ratings.csv"), tiny_backbone_folder(folder / "models", "llama")


def runs_of(root, world):
    ws = Workspace.open(root, create=True)
    path, model = world
    data = pipeline.import_dataset(ws, "table", path=path, task="rating", name="books")
    source = pipeline.fit_prompts(ws, data, model, training=QUICK)
    moved = pipeline.migrate(ws, source, model, training=QUICK, adapter=SMALL)
    return ws, source, moved


def test_a_second_run_reads_items_from_disk_and_has_the_same_result(world, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(item_cache, "MIN_LAYER_WEIGHTS", 0)
        ws, source, moved = runs_of(tmp_path / "with", world)
    release_backbones()
    without, *plain = runs_of(tmp_path / "without", world)
    assert cached_files(without) == [] and len(cached_files(ws)) > 20
    assert "items_from_disk" not in source.cost
    # Train and validation rows name fewer items than there are files: those of the first fit.
    assert 0 < moved.cost["items_from_disk"] <= len(cached_files(ws))
    assert moved.cost["item_seconds_from_disk"] > 0
    assert (source.id, moved.id) == (plain[0].id, plain[1].id)
    for run in (source, moved):
        tables = [pipeline.load_prompts(where, run.id).vectors for where in (ws, without)]
        np.testing.assert_allclose(*tables, atol=1e-4)
    evaluation = pipeline.evaluate(ws, moved)
    seconds = moved.seconds + moved.cost["item_seconds_from_disk"]
    assert method_cost(ws, evaluation)["seconds"] == pytest.approx(seconds)


def test_backups_leave_out_cached_items_and_gc_removes_old_ones(world, tmp_path, monkeypatch):
    monkeypatch.setattr(item_cache, "MIN_LAYER_WEIGHTS", 0)
    release_backbones()
    ws, *_ = runs_of(tmp_path / "ws", world)
    assert backup(ws, tmp_path / "copy").problems == []
    assert not (tmp_path / "copy" / "cache").exists()
    assert leftovers(ws) == [] and ws.verify() == []
    erase_user(ws, "007")
    old, *recent = cached_files(ws)
    past = time.time() - 100 * 86_400
    os.utime(old, (past, past))
    assert [item.path for item in tidy(ws)] == [old] and cached_files(ws) == recent
    gone = ws.root / "cache" / "items" / "0123456789abcdef-0123456789abcdef"
    gone.mkdir()
    assert [item.path for item in tidy(ws)] == [gone] and cached_files(ws) == recent


@pytest.mark.parametrize(("value", "is_cached"), [("0", False), ("1", True)])
def test_the_size_of_the_item_cache_is_a_setting(world, tmp_path, monkeypatch, value, is_cached):
    monkeypatch.setattr(item_cache, "MIN_LAYER_WEIGHTS", 0)
    monkeypatch.setenv("PUMA_ITEM_CACHE_MIB", value)
    release_backbones()
    ws, *_ = runs_of(tmp_path / "ws", world)
    assert bool(cached_files(ws)) == is_cached
    monkeypatch.setenv("PUMA_ITEM_CACHE_MIB", "much")
    with pytest.raises(ConfigError, match="PUMA_ITEM_CACHE_MIB is 'much'"):
        pipeline.load_backbone(ws, "llama")


def test_files_that_vanish_while_they_are_counted_are_not_counted(tmp_path, monkeypatch):
    """Another process may remove files of the cache at any time."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    folder = ws.root / "cache" / "items" / "model" / "ab"
    folder.mkdir(parents=True)
    for name in ("gone.kv", "kept.kv"):
        (folder / name).write_bytes(bytes(64))
    stat = Path.stat

    def stat_once(path, **options):
        result = stat(path, **options)
        if path.name == "gone.kv":
            path.unlink()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", stat_once)
        assert item_cache._budget(ws) > 0
    assert [file.name for file in cached_files(ws)] == ["kept.kv"]
