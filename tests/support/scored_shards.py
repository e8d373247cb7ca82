"""A workspace with a migration whose prompts are also there as shards."""

from types import SimpleNamespace

from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.exchange.packed import write_packed
from puma_engine.store import Workspace


def scored_shards(folder):
    """Make the workspace; its shards have 5 users each, in no order of ids."""
    ws = Workspace.open(folder / "workspace", create=True)
    table = write_ratings(folder / "ratings.csv")
    data = pipeline.import_dataset(ws, "table", path=table, task="rating")
    small = tiny_backbone_folder(folder / "models", "llama")
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    source = pipeline.fit_prompts(ws, data.id, small, training=QUICK)
    moved = pipeline.migrate(
        ws, source, large, name="moved", training=QUICK, adapter=SMALL, device="cpu"
    )
    prompts = pipeline.load_prompts(ws, moved)
    (folder / "shards").mkdir()
    write_packed(folder / "shards", prompts, {}, shard_users=5)
    return SimpleNamespace(ws=ws, data=data, moved=moved, prompts=prompts, shards=folder / "shards")
