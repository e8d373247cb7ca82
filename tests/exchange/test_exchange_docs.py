"""The commands of docs/models.md, docs/prompts.md and docs/serving.md work as documented."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import QUICK, SMALL, write_ratings
from tiny import tiny_backbone_folder
from typer.testing import CliRunner

from puma_engine import Workbench, pipeline
from puma_engine.backbone import FrozenBackbone
from puma_engine.cli import app
from puma_engine.datasets import Dataset
from puma_engine.store import Workspace

DOCS = Path(__file__).parents[2] / "docs"
# Commands that need the hub or a large file, or run until they are stopped, have other tests.
ELSEWHERE = (
    *("puma adapters push", "puma adapters show owner/name", "puma serve-adapter"),
    "puma models add ~/models/",
    *("puma models convert smollm2", "puma migrate-stream s3://"),
)


def commands():
    lines = []
    for name in ("models", "prompts", "serving"):
        text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.S | re.M):
            lines += [command for command in block.splitlines() if command.startswith("puma ")]
    return [line for line in lines if not line.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with the names that the documents use."""
    folder = tmp_path_factory.mktemp("docs")
    ws = Workspace.open(folder / "workspace", create=True)
    table = write_ratings(folder / "ratings.csv")
    frame = pd.read_csv(table, dtype=str)
    frame = frame.replace({"user_id": {"004": "42"}, "item_id": {"i7": "7"}})
    frame.to_csv(table, index=False)
    pipeline.import_dataset(ws, "table", path=table, task="rating", name="books")
    small = tiny_backbone_folder(folder / "models", "llama")
    large = tiny_backbone_folder(folder / "models", "qwen2", width=48)
    fitted = {"template": "rating", "training": QUICK, "name": "source"}
    source = pipeline.fit_prompts(ws, "books", small, **fitted)
    settings = {"training": QUICK, "adapter": SMALL}
    moved = pipeline.migrate(ws, source, large, name="moved", **settings)
    moved_back = pipeline.migrate(ws, moved, small, name="next", **settings)
    pipeline.export_adapter(ws, moved_back, folder / "next-adapter")
    pipeline.export_prompts(ws, source, folder / "theirs.safetensors")
    text = (DOCS / "prompts.md").read_text(encoding="utf-8")
    (template,) = re.findall(r"^```toml\n(# stars\.toml\n.*?)^```$", text, re.S | re.M)
    (folder / "stars.toml").write_text(template)
    rng = np.random.default_rng(0)
    for owner in ("user", "item"):
        table = pd.DataFrame({f"{owner}_id": frame[f"{owner}_id"].unique()})
        table["vector"] = list(rng.normal(size=(len(table), 6)))
        table.to_parquet(folder / f"{owner}s.parquet")
    (folder / "pairs.csv").write_text("user_id,item_id\n42,7\n005,7\n")
    return folder


def test_the_documented_recipe_for_new_users_works(world):
    bench = Workbench(world / "workspace")
    moved = bench.run("moved")
    origin = bench.run(moved.inputs["source_0"])
    data = bench.dataset(moved.inputs["dataset"])
    renamed = data.interactions.assign(user_id="new-" + data.interactions["user_id"].astype(str))
    names = {"bench": bench, "few_rows": Dataset(data.name, data.task, renamed, data.items, {})}
    names |= {"source": bench.prompts(origin), "small": FrozenBackbone.load(world / "models/llama")}
    text = (DOCS / "prompts.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^```python\n([^`]*fit_new_users.*?)^```$", text, re.S | re.M)
    exec(recipe.replace("rating-item-first", "rating"), names)
    carried, known = names["carried"], bench.prompts(moved)
    assert carried.width == known.width and len(carried.user_ids) == len(data.users)
    assert all(user.startswith("new-") for user in carried.user_ids)


def test_every_documented_command_works(world, monkeypatch):
    monkeypatch.chdir(world)
    lines = commands()
    assert len(lines) >= 9
    for line in lines:
        arguments = shlex.split(line.replace("llama-small", "llama").replace("2000", "4"))[1:]
        arguments = ["theirs.safetensors" if word == "PATH" else word for word in arguments]
        arguments += ["--seconds", "0"] if arguments[:2] == ["models", "check"] else []
        arguments += ["--epochs", "1"] if arguments[0] in ("migrate", "aggregate") else []
        result = CliRunner().invoke(app, [*arguments, "--workspace", "workspace"])
        assert result.exit_code == 0, (line, result.output)
    moved_back = CliRunner().invoke(
        app,
        [
            "prompts",
            "import",
            "migrated",
            "--dataset",
            "books",
            "--backbone",
            "llama",
            "-w",
            "workspace",
        ],
    )
    assert moved_back.exit_code == 0, moved_back.output
