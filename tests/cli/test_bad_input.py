"""Bad input on the real command line: one clear sentence, exit code 1, nothing half-written."""

import json
import resource
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from tiny import tiny_backbone_folder, tiny_tokenizer
from tokenizers import Regex, normalizers
from typer.testing import CliRunner

from puma_engine import Workbench, pipeline
from puma_engine.cli import app
from puma_engine.errors import Cancelled, DataError, PumaError, SelectionError, TrainingError
from puma_engine.store import Workspace

USERS, ITEMS = 12, 12
QUICK = {"epochs": 1, "batch_size": 32}


def ratings(users=range(USERS)):
    return pd.DataFrame(
        [
            (f"u{user:02}", f"i{item}", str(1 + (user * 7 + item * 3) % 5), f"Book {item}")
            for user in users
            for item in range(ITEMS)
        ],
        columns=["user_id", "item_id", "outcome", "text"],
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with a data set, a larger one, a tiny model, its broken copies and prompts."""
    folder = tmp_path_factory.mktemp("world")
    bench = Workbench(folder / "ws", create=True)
    for name, users in (("good", range(USERS)), ("more", range(USERS + 2))):
        ratings(users).to_csv(folder / f"{name}.csv", index=False)
        bench.import_dataset("table", path=folder / f"{name}.csv", task="rating", name=name)
    model = tiny_backbone_folder(folder, "llama")
    bench.fit_prompts("good", model, training=QUICK, name="source")
    for name, damage in BROKEN.items():
        shutil.copytree(model, folder / name)
        damage(folder / name)
    return folder


def lose_a_tensor(path):
    tensors = load_file(path / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def cut_the_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose_the_digits(path):
    tokenizer = tiny_tokenizer("bytes-no-bos")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("[0-9]"), "#")
    tokenizer.save_pretrained(path)


BROKEN = {
    "without-weights": lambda path: (path / "model.safetensors").unlink(),
    "without-a-tensor": lose_a_tensor,
    "cut-short": cut_the_weights,
    "without-digits": lose_the_digits,
}


def stored_files(ws):
    """Finished runs of a workspace, and all other files in its folder."""
    finished = {run.id for run in ws.runs(status="finished")}
    files = {str(path.relative_to(ws.root)) for path in ws.root.rglob("*") if path.is_file()}
    return finished, {name for name in files if not name.startswith(("locks/", "puma."))}


def refused(folder, arguments, *sentences):
    """Run a command that must fail; return its error message."""
    ws = Workspace.open(folder / "ws")
    before = stored_files(ws)
    result = CliRunner().invoke(app, [*map(str, arguments), "-w", str(folder / "ws")])
    assert result.exit_code == 1, (result.exit_code, result.output, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    *_, message = result.stderr.splitlines()
    assert message.startswith("Error: ") and len(message) < 700 and "Traceback" not in result.stderr
    assert "np." not in message and result.stdout == ""
    for sentence in sentences:
        assert sentence in message, message
    assert stored_files(ws) == before and ws.verify() == []
    assert not list((folder / "ws" / "work").glob("*/*"))
    return message


def without(column):
    return lambda frame: frame.drop(columns=column)


def cell(column, value, row=5):
    def change(frame):
        frame.loc[row, column] = value
        return frame

    return change


def title(value, item="i3"):
    return lambda frame: frame.assign(text=frame["text"].where(frame["item_id"] != item, value))


TABLES = {
    "missing column": (without("outcome"), "lacks the column outcome"),
    "missing title column": (without("text"), "no column of item texts"),
    "NaN rating": (cell("outcome", "nan"), "1 of 144 rows", "not a number from 1 to 5", "row 6"),
    "rating of 6": (cell("outcome", "6"), "1 of 144 rows", "not a number from 1 to 5"),
    "no rows": (lambda frame: frame.head(0), "has no rows"),
    "duplicate pair": (lambda frame: pd.concat([frame, frame.head(1)]), "repeating a user and"),
    "empty title": (title("  "), "12 whose item has no text"),
    "title of controls alone": (title("\x00\x07"), "12 whose item has no text"),
    "empty user id": (cell("user_id", ""), "1 without a usable user id"),
}


@pytest.mark.parametrize("case", TABLES)
def test_bad_tables(world, tmp_path, case):
    change, *sentences = TABLES[case]
    path = tmp_path / "bad.csv"
    change(ratings()).to_csv(path, index=False)
    message = refused(world, ["data", "import", "table", path, "--task", "rating"], *sentences)
    with pytest.raises(DataError) as caught:
        Workbench(world / "ws").import_dataset("table", path=path, task="rating")
    assert " ".join(str(caught.value).split()) == message.removeprefix("Error: ")


def test_an_empty_file(world, tmp_path):
    path = tmp_path / "empty.csv"
    path.touch()
    refused(world, ["data", "import", "table", path, "--task", "rating"], "is empty")


def test_strange_titles_are_read_as_plain_text(world, tmp_path):
    """Long titles, control characters and special tokens are read as text, and the slot stays."""
    ws = Workspace.open(tmp_path / "ws", create=True)
    strange = {
        "i0": "Long " * 2_000,
        "i1": "<s></s><|endoftext|> <UserID> {item}",
        "i2": "Bell\x07 and \x1b[31mred\u202e",
    }
    frame = ratings()
    frame["text"] = frame["item_id"].map(strange).fillna(frame["text"])
    frame.to_csv(tmp_path / "odd.csv", index=False)
    data = pipeline.import_dataset(ws, "table", path=tmp_path / "odd.csv", task="rating")
    texts = pipeline.load_dataset(ws, data).items.set_index("item_id")["text"]
    assert texts["i2"] == "Bell and [31mred" and texts["i1"] == strange["i1"]
    fitted = pipeline.fit_prompts(ws, data, world / "llama", training=QUICK)
    predicted = pipeline.read_predictions(ws, pipeline.evaluate(ws, fitted))
    assert np.isfinite(predicted["prediction"]).all() and len(predicted) == 24


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("without-weights", "has no weights (*.safetensors)"),
        ("without-a-tensor", "lacks 1 of its weights"),
        ("cut-short", "download or save it again"),
        ("without-digits", "one distinct token for each of 1, 2, 3, 4, 5"),
        ("nowhere", "There is no backbone"),
    ],
)
def test_bad_models(world, name, sentence):
    path = world / name
    message = refused(world, ["models", "check", path], sentence)
    assert refused(world, ["models", "add", path], sentence) == message
    refused(world, ["prompts", "fit", "--dataset", "good", "--backbone", path], sentence)
    refused(world, ["migrate", "source", path, "--epochs", "1"], sentence)
    with pytest.raises(PumaError, match=r"\."):
        Workbench(world / "ws").migrate("source", path)


MIGRATE = ["migrate", "source", "llama", "--epochs", "1", "--hidden", "8"]
REQUESTS = [
    (["select", "source", "--budget", "13"], "from 1 to the 12 users there are, not 13"),
    ([*MIGRATE, "--strategy", "random", "--budget", "99"], "from 1 to the 12 users", "99"),
    (["select", "source", "--share", "1.1"], "at most 1, not 1.1"),
    (
        ["select", "source", "--budget", "3", "--strategy", "kmeans", "--clusters", "0"],
        "1 or more clusters",
    ),
    (["select", "source", "--strategy", "all", "--budget", "4"], "takes every user", "budget of 4"),
    ([*MIGRATE, "--strategy", "all", "--share", "0.5"], "takes every user", "share of 0.5"),
    (
        [
            "plan",
            "costs",
            "--source",
            "source",
            "--target",
            "llama",
            "--strategy",
            "all",
            "--budget",
            "4",
        ],
        "takes every user",
    ),
    (["select", "source", "--budget", "3", "--clusters", "4"], "'facility' forms no clusters"),
    (
        ["anchors", "source", "--item", "i0", "--item", "i1", "--count", "9"],
        "2 anchor items are named",
        "9",
    ),
    (["evaluate", "item_mean", "--dataset", "good", "--template", "rating"], "has no template"),
    (["evaluate", "item_mean", "--dataset", "good", "--precision", "bf16"], "has no precision"),
    (["compare", "a", "b", "--margin", "0.1", "--queue"], "a queued job prints none"),
    (["models", "add", "llama", "--revision", "v2"], "and llama is none", "'v2'"),
    (
        [
            "prompts",
            "export",
            "source",
            "--out",
            "x.npz",
            "--format",
            "numpy",
            "--shard-users",
            "7",
        ],
        "Only the format packed has shards",
    ),
    (
        ["prompts", "export", "source", "--out", "x.npz", "--format", "numpy", "--licence", "MIT"],
        "numpy has no card",
    ),
    (
        ["study", "figure4", "--target", "phi3-small"],
        "That --target would change nothing in the study figure4",
    ),
    (
        ["study", "table2", "--strategy", "random"],
        "That --strategy would change nothing in the study table2",
    ),
    (["evaluate", "source", "--dataset", "more"], "4 test rows", "first: 'u12'"),
    (["evaluate", "nobody"], "There is no run 'nobody'", "item_mean"),
    (["evaluate", "source", "--precision", "fp99"], "There is no precision 'fp99'"),
    (["evaluate", "source", "--split", "future"], "There is no split 'future'"),
    ([*MIGRATE, "--learning-rate", "inf"], "learning_rate must be above 0 and finite"),
    (["prompts", "export", "source", "--out", "/proc/nowhere/x"], "cannot be written"),
    (["runs", "show", "zzzz"], "There is no run 'zzzz'"),
    (["jobs", "show", "zzzz"], "There is no job 'zzzz'"),
]


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: " ".join(case[0][:4]))
def test_impossible_requests(world, case):
    arguments, *sentences = case
    refused(world, arguments, *sentences)


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "check", "{model}"),
        ("models", "convert", "{model}", "whole"),
        ("adapters", "show", "{model}"),
        ("serve-adapter", "{model}"),
        ("serve-adapter", "source"),
        ("migrate-stream", "in", "out", "--adapter", "{model}"),
    ],
    ids=" ".join,
)
def test_a_revision_of_what_is_not_on_the_hub(world, arguments):
    arguments = [word.format(model=world / "llama") for word in arguments]
    refused(world, [*arguments, "--revision", "v2"], "is none; leave out the revision 'v2'")


def test_unknown_users_are_named(world, tmp_path):
    bench = Workbench(world / "ws")
    file = bench.export_prompts("source", tmp_path / "p.safetensors")
    arguments = ["prompts", "import", file, "--dataset", "more", "--backbone", world / "llama"]
    refused(world, arguments, "2 of the 14 users have no prompt", "first: 'u12'")
    more = bench.fit_prompts("more", world / "llama", training=QUICK)
    chosen = bench.select(more, strategy="all")
    refused(world, [*MIGRATE, "--selection", chosen.id], "2 of the 14 chosen users", "'u12'")
    with pytest.raises(SelectionError, match="12 users"):
        bench.select("source", strategy="random", budget=13)


def test_a_soft_prompt_longer_than_the_model_reads(world):
    arguments = ["prompts", "fit", "--dataset", "good", "--backbone", world / "llama"]
    refused(
        world, [*arguments, "--tokens", "490", "--epochs", "1"], "soft prompt of 490", "reads 512"
    )


def test_a_training_that_diverges_says_so(world):
    bench = Workbench(world / "ws")
    wild = QUICK | {"epochs": 3, "learning_rate": 1e18, "grad_clip": 1e30}
    with pytest.raises(TrainingError, match=r"lower the learning rate \(1e\+18\)"):
        bench.fit_prompts("good", world / "llama", training=wild)


def test_one_user_can_train_an_adapter(world):
    bench = Workbench(world / "ws")
    settings = {"training": QUICK, "adapter": {"hidden": 8, "noise": 0.3}}
    moved = bench.migrate("source", world / "llama", strategy="random", budget=1, **settings)
    assert np.isfinite(bench.prompts(moved).vectors).all()


def test_a_full_disk(world):
    """A file size limit simulates a full disk; the same command works without the limit."""
    arguments = ["prompts", "export", "source", "--out", str(world / "big.safetensors")]
    line = [sys.executable, "-m", "puma_engine.cli", "-w", str(world / "ws"), *arguments]
    room = (resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))
    result = subprocess.run(
        line,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(*room),
    )
    assert result.returncode == 1, result.stderr
    assert "is full or at its limit" in result.stderr and result.stderr.count("\n") == 1
    assert not list(world.glob("*big*")) and not list(world.glob(".tmp*"))
    assert Workbench(world / "ws").export_prompts("source", line[-1]).stat().st_size > 1_000


def test_a_corrupt_checkpoint(world):
    ws = Workspace.open(world / "ws")
    training = {"epochs": 3, "batch_size": 32, "seed": 4}
    calls = iter(range(100))
    with pytest.raises(Cancelled):
        pipeline.fit_prompts(
            ws, "good", "llama", training=training, should_cancel=lambda: next(calls) > 2
        )
    (file,) = (ws.root / "work").glob("*/checkpoint-*.safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    arguments = ["prompts", "fit", "--dataset", "good", "--backbone", "llama", "--epochs", "3"]
    arguments += ["--batch-size", "32", "--seed", "4", "-w", str(ws.root)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1 and "is damaged" in done.stderr.splitlines()[-1]
    assert f"remove the folder {file.parent} to start over" in done.stderr
    shutil.rmtree(file.parent)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_a_workspace_of_a_newer_version(world, tmp_path):
    shutil.copytree(world / "ws", tmp_path / "ws")
    database = tmp_path / "ws" / "puma.db"
    with sqlite3.connect(database) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('puma', '9999_future', '')"
        )
    db.close()
    before = database.read_bytes()
    for arguments in (
        ["runs", "list"],
        ["select", "source", "--budget", "3"],
        ["worker", "--once"],
    ):
        result = CliRunner().invoke(app, [*arguments, "-w", str(tmp_path / "ws"), "--json"])
        assert result.exit_code == 1
        assert "was used by a newer version" in json.loads(result.stderr)["error"]
    doctor = CliRunner().invoke(app, ["doctor", "-w", str(tmp_path / "ws"), "--json"])
    assert doctor.exit_code == 1 and json.loads(doctor.stdout)[-1]["status"] == "fail"
    assert database.read_bytes() == before
