"""Imported prompts: every format, joined by user id, without executing pickled code."""

import base64
import dataclasses
import io
import json
import pickle
import re
import zipfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from small_runs import QUICK, write_ratings
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.backbone.tasks import RatingHead
from puma_engine.errors import ConfigError, DataError, StoreError
from puma_engine.evaluation.prediction import predict
from puma_engine.exchange.packed import PromptShards, write_packed
from puma_engine.exchange.prompt_formats import content_hash, read_prompts, write_parquet
from puma_engine.exchange.user_ids import read_ids
from puma_engine.files import save_tensors
from puma_engine.prompts.table import PromptTable
from puma_engine.store import Workspace

USERS = [f"{user:03}" for user in range(24)]
ORDER = np.random.default_rng(3).permutation(24)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    ws = Workspace.open(folder / "workspace", create=True)
    table = write_ratings(folder / "ratings.csv")
    data = pipeline.import_dataset(ws, "table", path=table, task="rating")
    model = tiny_backbone_folder(folder / "models", "llama")
    fitted = pipeline.fit_prompts(ws, data, model, training=QUICK)
    vectors = pipeline.load_prompts(ws, fitted).take(USERS)[:, 0]
    return {"ws": ws, "data": data, "model": model, "vectors": vectors}


@pytest.fixture
def ids(tmp_path):
    """A file that names the user of each shuffled row."""
    path = tmp_path / "users.txt"
    path.write_text("\n".join(USERS[row] for row in ORDER) + "\n")
    return path


def checkpoint(world, *, head=True, wrapped=False):
    """A checkpoint as the published code saves it: a table without ids, other tensors, optionally a head."""
    state = {
        "user_embedding.weight": torch.from_numpy(world["vectors"][ORDER].copy()),
        "llm.model.norm.weight": torch.ones(4),
    }
    if head:
        shapes = {0: (32, 5), 2: (12, 32), 4: (1, 12)}
        for number, shape in shapes.items():
            state[f"rating_head.{number}.weight"] = torch.full(shape, 0.01 * (number + 1))
            state[f"rating_head.{number}.bias"] = torch.zeros(shape[0])
    return {"model": state, "epoch": 3} if wrapped else state


def shuffled(world):
    return world["vectors"][ORDER]


def save_parquet(path, vectors):
    ids = [USERS[row] for row in ORDER]
    pd.DataFrame({"user_id": ids, "vector": list(vectors)}).to_parquet(path)


WRITERS = {
    "t.pt": lambda path, world: torch.save(checkpoint(world), path),
    "t.bin": lambda path, world: torch.save(checkpoint(world, head=False, wrapped=True), path),
    "t.npy": lambda path, world: np.save(path, shuffled(world)),
    "t.npz": lambda path, world: np.savez(
        path, prompts=shuffled(world), user_ids=np.array([USERS[row] for row in ORDER])
    ),
    "t.safetensors": lambda path, world: save_tensors(path, {"anything": shuffled(world)}),
    "t.parquet": lambda path, world: save_parquet(path, shuffled(world)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_joined_by_user_id(world, tmp_path, ids, name):
    WRITERS[name](tmp_path / name, world)
    has_user_ids = name in ("t.npz", "t.parquet")
    prompts = read_prompts(tmp_path / name, users=None if has_user_ids else ids)
    rows = [prompts.user_ids.index(user) for user in USERS]
    assert np.array_equal(prompts.vectors[rows, 0], world["vectors"]) and not prompts.complete
    assert (prompts.head is not None) == (name == "t.pt")
    if not has_user_ids:
        with pytest.raises(DataError, match="--users"):
            read_prompts(tmp_path / name)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_numbered_columns_are_read_in_the_order_of_their_numbers(tmp_path, ending):
    vectors = np.random.default_rng(0).normal(size=(5, 12))
    for names in ([f"d{n}" for n in range(12)], [str(n) for n in range(1, 13)]):
        frame = pd.DataFrame(vectors, columns=names)
        frame = frame[sorted(names)].assign(user_id=list("abcde"))
        path = tmp_path / f"t.{ending}"
        frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
        assert np.array_equal(read_prompts(path).vectors[:, 0], vectors.astype(np.float32))
    # Columns without numbers keep the order of the file.
    frame = pd.DataFrame(vectors[:, :3], columns=["x", "z", "y"]).assign(user_id=list("abcde"))
    frame.to_csv(tmp_path / "named.csv", index=False)
    named = read_prompts(tmp_path / "named.csv").vectors[:, 0]
    assert np.array_equal(named, vectors[:, :3].astype(np.float32))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_further_column_is_refused_unless_vector_columns_are_named(tmp_path, ending):
    vectors = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    path = tmp_path / f"t.{ending}"

    def save(**columns):
        frame = pd.DataFrame(vectors, columns=[f"d{n}" for n in range(12)]).assign(**columns)
        frame = frame.assign(user_id=list("abcde"))
        frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)

    save(age=[31, 44, 58, 23, 19])
    with pytest.raises(DataError, match=r"'age' of .* the 12 columns 'd0' to 'd11', .*'d\*,age'"):
        read_prompts(path)
    for columns, expected in (("d*", vectors), ("d1,d0", vectors[:, [1, 0]])):
        assert np.array_equal(read_prompts(path, vector_columns=columns).vectors[:, 0], expected)
    both = read_prompts(path, vector_columns="age, d*").vectors[:, 0]
    assert both[:, 0].tolist() == [31, 44, 58, 23, 19] and np.array_equal(both[:, 1:], vectors)
    # Columns that are not named may hold anything.
    save(city=list("vwxyz"))
    assert np.array_equal(read_prompts(path, vector_columns="d*").vectors[:, 0], vectors)
    with pytest.raises(DataError, match="has no column 'e\\*' beside user_id"):
        read_prompts(path, vector_columns="e*")
    np.save(tmp_path / "t.npy", vectors)
    with pytest.raises(DataError, match="and t.npy is none"):
        read_prompts(tmp_path / "t.npy", vector_columns="d*")


def test_columns_of_several_tokens_share_a_stem(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    names = [f"t{token}_d{number}" for token in (0, 1) for number in (0, 1)]
    frame = pd.DataFrame(vectors, columns=names).assign(user_id=list("abcde"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    read = read_prompts(tmp_path / "t.csv", tokens=2).vectors
    assert np.array_equal(read, vectors.reshape(5, 2, 2))


def test_the_error_of_a_stray_quote_in_vectors_suggests_existing_options(tmp_path):
    (tmp_path / "t.csv").write_text('user_id,d0,d1\na,1,2\nb,"3" or,4\n')
    with pytest.raises(
        DataError, match="stray quotation mark.*save the table as .parquet"
    ) as caught:
        read_prompts(tmp_path / "t.csv")
    assert "--quote" not in str(caught.value)
    (tmp_path / "t.csv").write_text('user_id,d0,d1\na,1,2\nb,"3,4\n')
    with pytest.raises(
        DataError, match="ends inside a quoted value.*save it as .parquet"
    ) as caught:
        read_prompts(tmp_path / "t.csv")
    assert "--quote" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [("", [4, 2, 7]), ("Unnamed: 0", [4, 2, 7]), ("index", [4, 2, 7]), ("n", [0, 1, 2])]
    + [("n", [1, 2, 3])],
)
def test_a_column_that_numbers_the_rows_is_refused(tmp_path, name, values):
    frame = pd.DataFrame({name: values, "user_id": list("abc"), "x": [0.5, 1, 2], "y": [3.0, 1, 4]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=re.escape(f"The column {name!r}") + ".* numbers the rows"):
        read_prompts(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("value", "message"),
    [(1e30, "numbers up to 1e\\+30; those above 1e\\+17"), (1e300, "infinite")],
)
def test_numbers_that_no_model_can_read_are_refused(tmp_path, value, message, recwarn):
    vectors = np.ones((3, 8))
    vectors[1, 2] = -value
    np.savez(tmp_path / "t.npz", vectors=vectors, user_ids=list("abc"))
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / "t.npz")
    assert not recwarn.list


def test_bf16_tables_become_float32_exactly(world, tmp_path, ids):
    vectors = torch.from_numpy(shuffled(world).copy()).bfloat16()
    save_torch({"prompts": vectors}, tmp_path / "t.safetensors")
    prompts = read_prompts(tmp_path / "t.safetensors", users=ids)
    assert np.array_equal(prompts.vectors[:, 0], vectors.float().numpy())


def write_peft_user(folder, description):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    save_tensors(folder / "adapter_model.safetensors", {"prompt_embeddings": np.ones((1, 8))})
    (folder / "puma.json").write_text(description)
    return folder.parent


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "holds no JSON object"),
        ('{"prefix_tokens": 1}', "prefix_tokens = 1, but the prompt has 1"),
        ('{"prefix_tokens": "x"}', "prefix_tokens = 'x'"),
    ],
)
def test_damaged_descriptions_of_peft_users_are_refused(tmp_path, description, message):
    with pytest.raises((DataError, StoreError), match=message):
        read_prompts(write_peft_user(tmp_path / "peft" / "u0", description))


def peft_user(folder, width=8, description=None, **config):
    folder.mkdir(parents=True)
    config = {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "a/one"} | config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_tensors(folder / "adapter_model.safetensors", {"prompt_embeddings": np.ones((2, width))})
    if description:
        (folder / "puma.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("config", "description", "message"),
    [
        ({"base_model_name_or_path": "a/two"}, None, "differ in model .'a/one' and 'a/two'"),
        ({}, {"backbone": {"fingerprint": "f"}}, "differ in model"),
        ({}, {"template": "rating"}, "differ in template .None and 'rating'"),
        ({"num_virtual_tokens": 4}, None, "num_virtual_tokens = 4, but the prompt has 2"),
        ({"token_dim": 4}, None, "token_dim = 4, but the prompt has 8"),
        ({"num_transformer_submodules": 2}, None, "holds prompts for 2 parts of a model"),
    ],
)
def test_peft_users_of_several_models_or_shapes_are_refused(tmp_path, config, description, message):
    peft_user(tmp_path / "a", num_virtual_tokens=2, token_dim=8, num_transformer_submodules=1)
    assert read_prompts(tmp_path).vectors.shape == (1, 2, 8)
    peft_user(tmp_path / "b", description=description, **config)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path)


def test_a_head_is_read_from_the_folder_of_users_and_not_from_beside_it(tmp_path):
    peft_user(tmp_path / "mine" / "a")
    save_tensors(tmp_path / "head.safetensors", {"head.bias": np.zeros(3)})
    assert read_prompts(tmp_path / "mine").head is None
    save_tensors(tmp_path / "mine" / "head.safetensors", {"head.bias": np.ones(3)})
    for path in (tmp_path / "mine", tmp_path / "mine" / "a"):
        assert read_prompts(path).head["bias"][0] == 1


def test_prompts_of_another_model_give_a_warning(world, tmp_path, caplog):
    ws, model = world["ws"], world["model"]
    for user in USERS:
        peft_user(tmp_path / "other" / user, width=32)
        peft_user(tmp_path / "same" / user, width=32, base_model_name_or_path=f"x/{model.name}")
    for name in ("other", "same"):
        pipeline.import_prompts(ws, world["data"], model, tmp_path / name, head="none", name=name)
    messages = [
        record.getMessage() for record in caplog.records if "fitted on" in record.getMessage()
    ]
    assert len(messages) == 1 and "say that they were fitted on a/one" in messages[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "index.parquet").write_bytes(b"x"), "not a whole Parquet file"),
        (lambda folder: place_rows(folder, ["0", "x"]), "not a whole Parquet file"),
        (lambda folder: place_rows(folder, [0.5, 1.0]), "not a whole Parquet file"),
        (lambda folder: (folder / "prompts.json").write_text("[" * 100_000), "nested too deep"),
        (lambda folder: (folder / "prompts.json").unlink(), "no file"),
        (lambda folder: move_shard_out(folder), "outside of its folder"),
        *(
            (lambda folder, name=name: name_shard(folder, name), "missing or outside of its folder")
            for name in ("..", ".", "", "../packed", "other.safetensors", "head.safetensors", None)
        ),
    ],
)
def test_damaged_packed_folders_are_refused(tmp_path, damage, message):
    folder = tmp_path / "packed"
    folder.mkdir()
    table = PromptTable(np.array(["a", "b"]), np.ones((2, 1, 4), np.float32))
    write_packed(folder, table, {"template": "rating"})
    assert read_prompts(folder).user_ids == ["a", "b"]
    damage(folder)
    with pytest.raises((DataError, StoreError), match=message):
        read_prompts(folder)


def name_shard(folder, name):
    index = pd.read_parquet(folder / "index.parquet")
    index.assign(shard=pd.array([index["shard"][0], name], "string")).to_parquet(
        folder / "index.parquet"
    )


def place_rows(folder, rows):
    index = pd.read_parquet(folder / "index.parquet").assign(row=rows)
    index.to_parquet(folder / "index.parquet", index=False)


def move_shard_out(folder):
    index = pd.read_parquet(folder / "index.parquet")
    (folder / index["shard"][0]).rename(folder.parent / "elsewhere.safetensors")
    index.assign(shard="../elsewhere.safetensors").to_parquet(folder / "index.parquet", index=False)


def test_predictions_that_overflow_are_refused(world):
    ws = world["ws"]
    run = ws.runs(kind="prompts", status="finished")[-1]
    table = pipeline.load_prompts(ws, run)
    head = {name: np.full_like(value, np.inf) for name, value in table.head.items()}
    backbone = pipeline.load_backbone(ws, run.inputs["backbone"], device="cpu")
    dataset = pipeline.load_dataset(ws, world["data"])
    with pytest.raises(DataError, match="predictions are NaN or infinite"):
        broken = dataclasses.replace(table, head=head)
        predict(backbone, broken, dataset, "test", template="rating-item-first")


def test_a_head_with_infinite_values_is_refused(tmp_path):
    file = tmp_path / "p.safetensors"
    arrays = {"vectors": np.ones((2, 1, 4), np.float32), "head.bias": np.array([np.inf, 0])}
    save_tensors(file, arrays, {"user_ids": ["a", "b"]})
    with pytest.raises(DataError, match="head of .* holds NaN or infinite"):
        read_prompts(file)


def test_bf16_peft_folders_become_float32(tmp_path):
    values = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    for user, vectors in zip("abc", values, strict=True):
        folder = tmp_path / user
        folder.mkdir()
        (folder / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
        save_torch({"prompt_embeddings": vectors}, folder / "adapter_model.safetensors")
    prompts = read_prompts(tmp_path)
    assert prompts.user_ids == ["a", "b", "c"]
    assert np.array_equal(prompts.vectors, values.float().numpy())


def test_flat_rows_become_soft_tokens(world, tmp_path, ids):
    np.save(tmp_path / "t.npy", shuffled(world))
    prompts = read_prompts(tmp_path / "t.npy", users=ids, tokens=4)
    assert prompts.vectors.shape == (24, 4, 8)
    assert np.array_equal(prompts.vectors.reshape(24, 32), shuffled(world))
    with pytest.raises(DataError, match="another --tokens"):
        read_prompts(tmp_path / "t.npy", users=ids, tokens=5)


def test_a_published_checkpoint_becomes_prompts_that_can_be_scored(world, tmp_path, ids):
    ws, path = world["ws"], tmp_path / "epoch3.pt"
    torch.save(checkpoint(world), path)
    run = pipeline.import_prompts(
        ws, world["data"], world["model"], path, users=ids, device="cpu", name="published"
    )
    table = pipeline.load_prompts(ws, run)
    assert np.array_equal(table.take(USERS)[:, 0], world["vectors"])
    fresh = RatingHead().state_dict()
    assert {k: v.shape for k, v in table.head.items()} == {k: v.shape for k, v in fresh.items()}
    assert run.config["head_training"]["epochs"] > 1 and run.summary["head_validation"] < 3
    assert pipeline.evaluate(ws, run, device="cpu").summary["metrics"]


def test_prompts_without_a_head_are_not_scored(world, tmp_path, ids):
    ws, path = world["ws"], tmp_path / "t.npy"
    np.save(path, shuffled(world))
    run = pipeline.import_prompts(
        ws, world["data"], world["model"], path, users=ids, head="none", device="cpu", name="bare"
    )
    assert run.summary["head"] is False
    with pytest.raises(DataError, match="no rating head"):
        pipeline.evaluate(ws, run, device="cpu")
    with pytest.raises(ConfigError, match="auto or none"):
        pipeline.import_prompts(ws, world["data"], world["model"], path, head="mine")


def test_peft_folders_are_joined_by_folder_name(world, tmp_path):
    import peft

    for user, vector in zip(USERS, world["vectors"], strict=True):
        folder = tmp_path / "peft" / user
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=1, token_dim=32)
        config.save_pretrained(folder)
        save_tensors(folder / "adapter_model.safetensors", {"prompt_embeddings": vector[None]})
    prompts = read_prompts(tmp_path / "peft")
    assert prompts.user_ids == USERS and np.array_equal(prompts.vectors[:, 0], world["vectors"])
    single = read_prompts(tmp_path / "peft" / "007")
    assert single.user_ids == ["007"]
    config = tmp_path / "peft" / "007" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "LORA"}))
    with pytest.raises(DataError, match="type LORA"):
        read_prompts(tmp_path / "peft")


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_pickled_code_is_never_executed(tmp_path, monkeypatch, ids):
    monkeypatch.chdir(tmp_path)
    torch.save({"user_embedding.weight": torch.ones(24, 4), "more": Evil()}, "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    for name in ("evil.pt", "raw.pt", "evil.npy"):
        with pytest.raises(DataError, match=r"more than tensors|never loaded"):
            read_prompts(tmp_path / name, users=ids)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((24, 3)), "b": np.zeros((24, 3))}, "rename"),
        ({"a": np.zeros(24)}, "rename"),
        ({"vectors": np.zeros((23, 3))}, "names 24 users for 23 rows"),
        ({"vectors": np.full((24, 3), np.nan)}, "NaN"),
        ({"vectors": np.zeros((24, 3), bool)}, "must be numbers"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, ids, arrays, message):
    save_tensors(tmp_path / "t.safetensors", arrays)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / "t.safetensors", users=ids)


def test_other_paths_are_refused(tmp_path, ids):
    (tmp_path / "t.h5").write_bytes(b"")
    with pytest.raises(DataError, match="allowed are"):
        read_prompts(tmp_path / "t.h5")
    with pytest.raises(StoreError, match="no file"):
        read_prompts(tmp_path / "nothing.pt")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(tmp_path)
    torch.save({"weight": torch.ones(2)}, tmp_path / "t.pt")
    with pytest.raises(DataError, match="0 tensors named"):
        read_prompts(tmp_path / "t.pt", users=ids)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_prompts(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("u.txt", "\ufeffb\r\na\r\n\r\n", ["b", "a"]),
        ("u.json", '["b", 7]', ["b", "7"]),
        ("u.json", '{"a": 1, "b": 0}', ["b", "a"]),
        ("u.csv", "user_id,row\n007,1\nNA,0\n", ["NA", "007"]),
        ("u.csv", "user_id\n007\n010\n", ["007", "010"]),
        ("u.csv", "user_id, row\n007, 1\nNA, 0\n", ["NA", "007"]),
        ("u.csv", "place,Row,User_ID\n9,1,007\n8,0,NA\n", ["NA", "007"]),
    ],
)
def test_user_ids_are_read_unchanged(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_ids(tmp_path / name, 2) == expected


@pytest.mark.parametrize("user_id", ["\ru2", "u\x00", "u2\u0085", "\t", "", "u" * 1001])
def test_ids_with_control_characters_blank_or_long_ones_are_refused_in_every_format(
    tmp_path, user_id
):
    ids, vectors = ["u1", user_id, "u3"], np.ones((3, 1, 4), np.float32)
    np.save(tmp_path / "t.npy", vectors[:, 0])
    np.savez(tmp_path / "t.npz", vectors=vectors, user_ids=np.array(ids, dtype="U1001"))
    save_tensors(tmp_path / "t.safetensors", {"vectors": vectors}, {"user_ids": ids})
    pd.DataFrame({"user_id": ids, "vector": list(vectors[:, 0])}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "u.json").write_text(json.dumps(ids), encoding="utf-8")
    pd.DataFrame({"user_id": ids, "row": range(3)}).to_parquet(tmp_path / "u.parquet")
    packed = tmp_path / "packed"
    packed.mkdir()
    save_tensors(packed / "prompts-1.safetensors", {"vectors": vectors}, {"user_ids": ids})
    index = pd.DataFrame({"user_id": ids, "shard": "prompts-1.safetensors", "row": range(3)})
    index.to_parquet(packed / "index.parquet", index=False)
    (packed / "prompts.json").write_text("{}")
    for user, name in zip(ids, "abc", strict=True):
        (tmp_path / "peft" / name).mkdir(parents=True)
        config = {"peft_type": "PROMPT_TUNING"}
        (tmp_path / "peft" / name / "adapter_config.json").write_text(json.dumps(config))
        arrays = {"prompt_embeddings": vectors[0]}
        save_tensors(tmp_path / "peft" / name / "adapter_model.safetensors", arrays)
        (tmp_path / "peft" / name / "puma.json").write_text(json.dumps({"user_id": user}))
    readings = [
        lambda: read_prompts(tmp_path / "t.npy", users=tmp_path / "u.json"),
        lambda: read_prompts(tmp_path / "t.npy", users=tmp_path / "u.parquet"),
        *(lambda n=name: read_prompts(tmp_path / n) for name in ("t.safetensors", "t.parquet")),
        *(lambda n=name: read_prompts(tmp_path / n) for name in ("packed", "peft")),
        lambda: PromptShards(packed),
    ]
    if not user_id.endswith("\x00"):  # NumPy itself cuts these off
        readings.append(lambda: read_prompts(tmp_path / "t.npz"))
    for read in readings:
        with pytest.raises(DataError, match="without a usable user id .*control character"):
            read()


@pytest.mark.parametrize("user_id", [True, None, ["u2"], 1.5])
def test_ids_that_are_neither_text_nor_whole_numbers_are_refused(tmp_path, user_id):
    np.save(tmp_path / "t.npy", np.ones((2, 4), np.float32))
    (tmp_path / "u.json").write_text(json.dumps(["u1", user_id]))
    arrays, meta = {"vectors": np.ones((2, 1, 4), np.float32)}, {"user_ids": ["u1", user_id]}
    save_tensors(tmp_path / "t.safetensors", arrays, meta)
    sentence = f"must be text or a whole number, not {re.escape(json.dumps(user_id))}"
    with pytest.raises(DataError, match=sentence):
        read_prompts(tmp_path / "t.npy", users=tmp_path / "u.json")
    with pytest.raises(DataError, match=sentence):
        read_prompts(tmp_path / "t.safetensors")


def test_a_lone_surrogate_is_refused_as_a_user_id(tmp_path):
    (tmp_path / "u.json").write_text('["u1", "u\\ud800"]')
    with pytest.raises(DataError, match="without a usable user id"):
        read_ids(tmp_path / "u.json", 2)


def npy(shape, values=b""):
    """The bytes of an array that declares a shape of float32 and holds these bytes."""
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + values


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((1 << 40, 8)), "declares 35,184,372,088,832 bytes of values, and 0 are there"),
        (npy((2, 4), bytes(28)), "declares 32 bytes of values, and 28 are there"),
        (npy((2, 2), bytes(28)), "declares 16 bytes of values, and 28 are there"),
        (b"\x93NUMPY\x09\x00" + bytes(99), "cannot be read as NumPy arrays"),
        (b"no array", "cannot be read as NumPy arrays"),
    ],
)
def test_numpy_files_that_declare_another_size_are_refused(tmp_path, ids, name, content, message):
    if name == "a.npz":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("vectors.npy", content)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / name, users=ids)


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_unread(
    tmp_path, ids, monkeypatch
):
    monkeypatch.setattr("puma_engine.datasets.reading.parquet_files.MAX_UNPACKED", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", vectors=np.zeros((2, 1 << 20), np.float32))
    with pytest.raises(DataError, match="does not shrink that much"):
        read_prompts(tmp_path / "a.npz", users=ids)


def test_a_checkpoint_that_declares_more_than_it_stores_is_refused(tmp_path, ids, monkeypatch):
    monkeypatch.setattr("puma_engine.datasets.reading.parquet_files.MAX_UNPACKED", 1 << 20)
    # A view of one number has any shape.
    torch.save(
        {"user_embedding.weight": torch.ones(1, 1).expand(1 << 30, 1 << 20)}, tmp_path / "a.pt"
    )
    with pytest.raises(DataError, match="declares 4,503,599,627,370,496 bytes and stores fewer"):
        read_prompts(tmp_path / "a.pt", users=ids)
    torch.save({"user_embedding.weight": torch.zeros(2, 1 << 20)}, tmp_path / "b.pt")
    with (
        zipfile.ZipFile(tmp_path / "b.pt") as plain,
        zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(DataError, match="does not shrink that much"):
        read_prompts(tmp_path / "c.pt", users=ids)


def test_a_damaged_archive_of_arrays_is_refused(tmp_path, ids):
    np.savez_compressed(tmp_path / "b.npz", vectors=np.ones((2, 1, 8), np.float32))
    damaged = bytearray((tmp_path / "b.npz").read_bytes())
    damaged[60:75] = bytes(15)
    (tmp_path / "b.npz").write_bytes(damaged)
    with pytest.raises(DataError, match="cannot be read as NumPy arrays"):
        read_prompts(tmp_path / "b.npz", users=ids)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.json", '{"a": 0, "b": 0}', "each once"),
        ("u.json", '{"a": 0, "b": "1"}', "each once"),
        ("u.json", "3", "neither"),
        ("u.json", "{", "cannot be read"),
        ("u.txt", "a\n", "names 1 users for 2 rows"),
        ("u.csv", "who\na\nb\n", "lacks the column user_id"),
        ("u.csv", "user_id,name\na,Ann\nb,Bob\n", "lacks the column row"),
        ("u.csv", "user_id,place\na,1\nb,0\n", "lacks the column row"),
        ("u.csv", "user_id,row\na,0\nb,x\n", "cannot be read"),
        ("u.csv", 'user_id,row\n"a,0\nb,1\n', "inside a quoted value"),
        ("u.json", "[1234567890123456789.0, 2]", "text or a whole number"),
        ("u.json", '["a", false]', "text or a whole number, not false"),
        ("u.json", "[true, 1]", "text or a whole number, not true"),
        ("u.json", '["a", null]', "text or a whole number, not null"),
        ("u.csv", "user_id,row\na,0\na,1\n", "comes twice"),
        ("u.doc", "a", "give a"),
    ],
)
def test_user_ids_that_do_not_fit_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_ids(tmp_path / name, 2)


def test_a_repeated_user_is_refused(tmp_path, world):
    (tmp_path / "u.txt").write_text("\n".join(USERS[:23] + USERS[:1]))
    np.save(tmp_path / "t.npy", world["vectors"])
    with pytest.raises(DataError, match="'000' occurs twice"):
        read_prompts(tmp_path / "t.npy", users=tmp_path / "u.txt")


def test_the_hash_depends_on_content_and_ids(tmp_path, world, ids):
    np.save(tmp_path / "t.npy", world["vectors"])
    without_ids, with_ids = content_hash(tmp_path / "t.npy"), content_hash(tmp_path / "t.npy", ids)
    ids.write_text(ids.read_text() + "x\n")
    assert len({without_ids, with_ids, content_hash(tmp_path / "t.npy", ids)}) == 3


def test_a_table_whose_own_description_is_damaged_is_refused(tmp_path):
    table = PromptTable(np.array(["a", "b"]), np.ones((2, 2, 3), np.float32))
    path = tmp_path / "prompts.parquet"
    write_parquet(path, table, {})
    assert read_prompts(path).vectors.shape == (2, 2, 3)
    read = pq.read_table(path)
    description = json.loads(read.schema.metadata[b"puma"])
    del description["tokens"]
    pq.write_table(read.replace_schema_metadata({"puma": json.dumps(description)}), path)
    with pytest.raises(DataError, match="it lacks tokens or meta"):
        read_prompts(path)
    save_file({"vectors": np.ones((2, 3), np.float32)}, tmp_path / "t.safetensors", {"meta": "{"})
    with pytest.raises(StoreError, match="metadata of .* is no JSON"):
        read_prompts(tmp_path / "t.safetensors")


def test_a_parquet_table_with_two_different_descriptions_is_refused(tmp_path):
    table = PromptTable(np.array(["a", "b"]), np.ones((2, 2, 3), np.float32))
    path = tmp_path / "prompts.parquet"
    write_parquet(path, table, {})
    copied = pq.read_metadata(path).metadata[b"ARROW:schema"]
    damaged = base64.b64encode(base64.b64decode(copied).replace(b'"tokens"', b'"uokens"'))
    assert damaged != copied
    path.write_bytes(path.read_bytes().replace(copied, damaged))
    with pytest.raises(DataError, match="its two copies differ"):
        read_prompts(path)


def test_a_flipped_bit_in_the_vectors_of_a_written_parquet_table_is_refused(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(20, 2, 8)).astype(np.float32)
    table = PromptTable(np.array([f"u{user}" for user in range(20)]), numbers)
    path = tmp_path / "prompts.parquet"
    write_parquet(path, table, {})
    data = path.read_bytes()
    position = data.find(numbers[3, 1, 4].tobytes())
    assert position > 0
    path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    with pytest.raises(DataError, match="cannot be read as Parquet .*(CRC|checksum)"):
        read_prompts(path)


def test_an_archive_that_numpy_cannot_unpack_is_refused(tmp_path):
    path = tmp_path / "prompts.npz"
    np.savez(path, vectors=np.ones((2, 3), np.float32))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 10] = 99  # an unknown compression method
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as NumPy arrays"):
        read_prompts(path)
