"""Readers of whole files: prompts, user ids, models, adapters, reports, settings.

A damaged file that is accepted must have the values that another library, or simple code here,
reads.
"""

import csv
import io
import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.reliability import damage

ROOT = Path(__file__).resolve().parents[2]
USERS, TOKENS, WIDTH = 12, 2, 8


@dataclass(frozen=True)
class Document:
    """A reader of a file or folder.

    write(folder): writes the undamaged files. read(folder): the result of the program.
    reference(folder): the result of independent code, in the same form. files: those to damage;
    how: kinds of damage.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    reference: Callable[[Path], Any]
    files: tuple[str, ...]
    how: tuple[damage.Damage, ...]

    def judge(self, _original: Path, damaged: Path, _before: Any, after: Any) -> list[str]:
        """Compare the program's reading of a damaged file with the independent one."""
        try:
            expected = self.reference(damaged)
        except Exception as error:  # readers of other libraries raise errors of many kinds
            return [f"The independent reader refuses it ({error!r:.200}), but it was accepted."]
        if same(expected, after):
            return []
        return [f"It was read as {str(after)[:200]}, not as {str(expected)[:200]}."]


def same(first: Any, other: Any) -> bool:
    """Return whether two readings are equal, numbers exactly."""
    if isinstance(first, dict) and isinstance(other, dict):
        return first.keys() == other.keys() and all(
            same(first[name], other[name]) for name in first
        )
    if isinstance(first, np.ndarray) or isinstance(other, np.ndarray):
        first, other = (np.asarray(value, dtype=np.float32) for value in (first, other))
        return first.shape == other.shape and bool(np.array_equal(first, other, equal_nan=True))
    if isinstance(first, list) and isinstance(other, list):
        return len(first) == len(other) and all(map(same, first, other))
    both_nan = (
        isinstance(first, float) and isinstance(other, float) and first != first and other != other
    )
    return both_nan or bool(first == other)


# Tables of prompts


def _ids() -> list[str]:
    return [f"u{user:03}" for user in range(USERS)]


def _vectors() -> np.ndarray:
    numbers = np.random.default_rng(7).normal(size=(USERS, TOKENS, WIDTH))
    return numbers.astype(np.float32)


def _table() -> Any:
    from puma_engine.prompts.table import PromptTable

    return PromptTable(np.array(_ids()), _vectors())


def _prompts(path: str, users: str | None = None) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from puma_engine.exchange.prompt_formats import read_prompts

        named = None if users is None else folder / users
        tokens = TOKENS if path.endswith((".npy", ".pt")) else None
        file = read_prompts(folder / path, users=named, tokens=tokens)
        return dict(zip(file.user_ids, file.vectors, strict=True))

    return read


def _by_user(ids: Any, vectors: Any, tokens: int = TOKENS) -> dict[str, np.ndarray]:
    rows = np.asarray(vectors, dtype=np.float32).reshape(len(vectors), tokens, -1)
    return dict(zip([str(user) for user in ids], rows, strict=True))


def _write_npz(folder: Path) -> None:
    from puma_engine.exchange.prompt_formats import write_numpy

    write_numpy(folder / "prompts.npz", _table(), {"seed": 1})


def _reference_npz(folder: Path) -> Any:
    with np.load(folder / "prompts.npz", allow_pickle=False) as arrays:
        return _by_user(arrays["user_ids"].tolist(), arrays["vectors"])


def _write_npy(folder: Path) -> None:
    np.save(folder / "prompts.npy", _vectors().reshape(USERS, -1))
    (folder / "users.txt").write_text("\n".join(_ids()) + "\n", encoding="utf-8")
    order = {user: row for row, user in enumerate(_ids())}
    (folder / "users.json").write_text(json.dumps(order), encoding="utf-8")
    lines = ["user_id,row", *(f"{user},{row}" for user, row in order.items())]
    (folder / "users.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _reference_npy(folder: Path, users: str) -> Any:
    vectors = np.load(folder / "prompts.npy", allow_pickle=False)
    # A bare carriage return ends no line.
    text = (folder / users).read_bytes().decode("utf-8-sig")
    text = text.replace("\r\n", "\n") if users.endswith(".csv") else text
    text = text.replace("\r", "\v") if users.endswith(".csv") else text
    if users.endswith(".txt"):
        return _by_user([line.strip() for line in text.splitlines() if line.strip()], vectors)
    if users.endswith(".json"):
        content = json.loads(text)
        ids = content if isinstance(content, list) else sorted(content, key=content.__getitem__)
        return _by_user(ids, vectors)
    rows = list(csv.DictReader(io.StringIO(text)))
    names = {name.strip().casefold(): name for name in rows[0] if name}
    ids = [row[names["user_id"]] for row in rows]
    if "row" in names:
        place = {int(row[names["row"]]): user for row, user in zip(rows, ids, strict=True)}
        ids = [place[number] for number in range(len(vectors))]
    return _by_user(ids, vectors)


def _write_parquet(folder: Path) -> None:
    from puma_engine.exchange.prompt_formats import write_parquet

    write_parquet(folder / "prompts.parquet", _table(), {"seed": 1})


def _reference_parquet(folder: Path) -> Any:
    table = pq.read_table(folder / "prompts.parquet")
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    # A table without our metadata is another program's, with one token for each user.
    metadata = json.loads((table.schema.metadata or {}).get(b"puma", b'{"tokens": 1}'))
    return _by_user(table["user_id"].to_pylist(), vectors, metadata["tokens"])


def _write_safetensors(folder: Path) -> None:
    from puma_engine.files import save_tensors

    metadata = {"user_ids": _ids(), "seed": 1}
    save_tensors(folder / "prompts.safetensors", {"vectors": _vectors()}, metadata)


def _reference_safetensors(file: Path) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        metadata = json.loads(tensors.metadata()["meta"])
        return _by_user(metadata["user_ids"], tensors.get_tensor("vectors"))


def _write_checkpoint(folder: Path) -> None:
    import torch

    from puma_engine.exchange.published_checkpoints import TABLE

    state = {TABLE: torch.from_numpy(_vectors().reshape(USERS, -1))}
    torch.save(state, folder / "prompts.pt")
    (folder / "users.txt").write_text("\n".join(_ids()) + "\n", encoding="utf-8")


def _reference_checkpoint(folder: Path) -> Any:
    import torch

    (table,) = torch.load(folder / "prompts.pt", weights_only=True).values()
    ids = (folder / "users.txt").read_text().split()
    return _by_user(ids, table.numpy())


def _write_packed(folder: Path) -> None:
    from puma_engine.exchange.packed import write_packed

    (folder / "packed").mkdir()
    write_packed(folder / "packed", _table(), {"seed": 1}, shard_users=5)


def _reference_packed(folder: Path) -> Any:
    users: dict[str, Any] = {}
    # pandas would read what it wrote about its own types, too, which nothing needs.
    index = pq.read_table(folder / "packed/index.parquet", columns=["user_id", "shard", "row"])
    for name in dict.fromkeys(index["shard"].to_pylist()):
        users |= _reference_safetensors(folder / "packed" / name)
    return users


def _write_peft(folder: Path) -> None:
    from puma_engine.files import save_tensors, write_json

    for user, vectors in zip(_ids()[:3], _vectors(), strict=False):
        place = folder / "peft" / user
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": TOKENS, "token_dim": WIDTH}
        write_json(place / "adapter_config.json", config)
        save_tensors(place / "adapter_model.safetensors", {"prompt_embeddings": vectors})
        write_json(place / "puma.json", {"user_id": user, "prefix_tokens": 0})


def _reference_peft(folder: Path) -> Any:
    from safetensors.numpy import load_file

    users = {}
    for place in sorted((folder / "peft").iterdir()):
        assert json.loads((place / "adapter_config.json").read_text())["peft_type"].upper() == (
            "PROMPT_TUNING"
        )
        metadata = json.loads((place / "puma.json").read_text("utf-8"))
        vectors = load_file(place / "adapter_model.safetensors")["prompt_embeddings"]
        # Without a user of its own a folder is named like it.
        user = str(metadata.get("user_id", place.name))
        users[user] = vectors[metadata.get("prefix_tokens", 0) :]
    return users


# Models and adapters


def _write_gguf(folder: Path) -> None:
    from tiny import tiny_model, tiny_tokenizer
    from tiny_gguf import write_gguf

    tokenizer = tiny_tokenizer("bytes-bos")
    write_gguf(folder / "tiny.gguf", tiny_model("llama", len(tokenizer)), tokenizer)


def _read_gguf(folder: Path) -> Any:
    from puma_engine.backbone import FrozenBackbone

    model = FrozenBackbone.load(folder / "tiny.gguf", device="cpu").model
    config = model.config
    return {
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "context": config.max_position_embeddings,
        "embedding": model.get_input_embeddings().weight.detach().float().numpy(),
        "down": model.model.layers[0].mlp.down_proj.weight.detach().float().numpy(),
    }


def _reference_gguf(folder: Path) -> Any:
    from gguf import GGUFReader

    reader = GGUFReader(folder / "tiny.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def value(key: str) -> int:
        field = reader.get_field(f"llama.{key}")
        assert field is not None
        return int(field.contents())

    def weight(name: str) -> np.ndarray:
        tensor = tensors[f"{name}.weight"]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        return np.asarray(tensor.data, dtype=np.float32).reshape(shape)

    return {
        "layers": value("block_count"),
        "heads": value("attention.head_count"),
        "context": value("context_length"),
        "embedding": weight("token_embd"),
        "down": weight("blk.0.ffn_down"),
    }


def _write_adapter(folder: Path) -> None:
    import torch

    from puma_engine.config import AdapterConfig
    from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter
    from puma_engine.migration.adapter import Adapter, adapter_tensors

    torch.manual_seed(3)
    config = AdapterConfig(hidden=8)
    shape = {"d_in": 6, "d_out": 10, "hidden": 8, "depth": config.depth, "dropout": config.dropout}
    tensors = adapter_tensors(Adapter(6, 10, config))
    write_adapter(folder / "adapter", AdapterFile(tensors, shape), "An adapter.")


def _read_adapter(folder: Path) -> Any:
    import torch

    from puma_engine.exchange.adapter_folders import SHAPE, read_adapter
    from puma_engine.migration.adapter import adapter_tensors

    file = read_adapter(folder / "adapter")
    network = file.network()
    with torch.no_grad():
        network(torch.zeros(1, 1, 6))
    return {name: file.config[name] for name in SHAPE} | adapter_tensors(network)


def _reference_adapter(folder: Path) -> Any:
    from safetensors.numpy import load_file

    from puma_engine.exchange.adapter_folders import SHAPE

    config = json.loads((folder / "adapter/config.json").read_text("utf-8"))
    return {name: config[name] for name in SHAPE} | load_file(folder / "adapter/model.safetensors")


# Reports, templates, settings, pairs


def _write_report(folder: Path) -> None:
    shutil.copyfile(ROOT / "docs/results/goodbooks-to-read/table4.json", folder / "table4.json")


def _read_report(folder: Path) -> Any:
    from puma_engine.studies.reports import load_report

    return load_report(folder / "table4.json", "run it again")


def _json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text("utf-8"))


TEMPLATE = {
    "task": "rating",
    "text": "What would a reader of {prompt} give to {item}, from 1 to 5? Answer:",
}


def _write_template(folder: Path) -> None:
    (folder / "own.json").write_text(json.dumps(TEMPLATE), encoding="utf-8")
    lines = [f'{name} = "{value}"' for name, value in TEMPLATE.items()]
    (folder / "own.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read_template(name: str, folder: Path) -> Any:
    from puma_engine.backbone.templates import get_template

    template = get_template(str(folder / name))
    return {"task": template.task, "text": template.text, "answers": template.answers}


def _reference_template(name: str, folder: Path) -> Any:
    text = (folder / name).read_text("utf-8")
    values = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    text = values["text"].strip()
    return {"task": values["task"], "text": text, "answers": values.get("answers", "auto")}


SETTINGS = {
    "dataset": "books",
    "backbone": "llama-small",
    "role": "retrained",
    "training": {"epochs": 3, "batch_size": 64, "learning_rate": 0.01, "patience": 0},
    "prompt": {"tokens": 2},
    "seed": 4,
}


def _write_settings(folder: Path) -> None:
    (folder / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")


def _read_settings(folder: Path) -> Any:
    from puma_engine.config import PromptConfig
    from puma_engine.defaults import fit_defaults
    from puma_engine.files import read_json
    from puma_engine.requests import FitRequest, overrides, training_of

    request = FitRequest.from_dict(read_json(folder / "settings.json"))
    training = training_of(fit_defaults("rating", 20), request.training, request.seed)
    prompt = PromptConfig(**overrides(PromptConfig, request.prompt))
    return {
        "names": [request.dataset, request.backbone, request.role],
        "training": {n: getattr(training, n) for n in request.training if n != "seed"},
        "tokens": prompt.tokens,
        "seed": training.seed,
    }


def _reference_settings(folder: Path) -> Any:
    values = _json(folder, "settings.json")
    # A setting, or a group of settings, that is null is not given.
    values = {name: value for name, value in values.items() if value is not None}
    training = {n: v for n, v in values.get("training", {}).items() if v is not None}
    seed = values.get("seed")
    return {
        "names": [values["dataset"], values["backbone"], values.get("role", "source")],
        "training": {n: v for n, v in training.items() if n != "seed"},
        "tokens": 1 if (tokens := values.get("prompt", {}).get("tokens")) is None else tokens,
        "seed": training.get("seed", 0) if seed is None else seed,
    }


def _write_pairs(folder: Path) -> None:
    lines = ["user_id,item_id,text", *(f"u{n},i{n % 7},Title {n}" for n in range(20))]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read_pairs(folder: Path) -> Any:
    from puma_engine.exchange.pairs import read_pairs

    pairs = read_pairs(folder / "pairs.csv")
    texts = pairs.texts or [None] * len(pairs.pairs)
    return [[user, item, text] for (user, item), text in zip(pairs.pairs, texts, strict=True)]


def _reference_pairs(folder: Path) -> Any:
    text = (folder / "pairs.csv").read_bytes().decode("utf-8-sig")
    # Bare carriage returns are spaces of a kind inside a line.
    text = text.replace("\r\n", "\n").replace("\r", "\v")
    rows = list(csv.reader(io.StringIO(text), strict=True))
    rows = [row for row in rows if row]
    names = [name.strip().casefold() for name in rows[0]]
    places = [
        names.index(name) if name in names else None for name in ("user_id", "item_id", "text")
    ]
    return [[row[p] or None if p is not None else None for p in places] for row in rows[1:]]


READERS: tuple[Document, ...] = (
    Document(
        "prompts.npz",
        _write_npz,
        _prompts("prompts.npz"),
        _reference_npz,
        ("prompts.npz",),
        damage.BINARY,
    ),
    *(
        Document(
            f"prompts.npy with {users}",
            _write_npy,
            _prompts("prompts.npy", users),
            partial(_reference_npy, users=users),
            (users, "prompts.npy"),
            damage.JSON if users.endswith(".json") else damage.LINES,
        )
        for users in ("users.csv", "users.txt", "users.json")
    ),
    Document(
        "prompts.parquet",
        _write_parquet,
        _prompts("prompts.parquet"),
        _reference_parquet,
        ("prompts.parquet",),
        damage.BINARY,
    ),
    Document(
        "prompts.safetensors",
        _write_safetensors,
        _prompts("prompts.safetensors"),
        lambda folder: _reference_safetensors(folder / "prompts.safetensors"),
        ("prompts.safetensors",),
        damage.BINARY,
    ),
    Document(
        "prompts.pt",
        _write_checkpoint,
        _prompts("prompts.pt", "users.txt"),
        _reference_checkpoint,
        ("prompts.pt",),
        damage.BINARY,
    ),
    Document(
        "packed shards",
        _write_packed,
        _prompts("packed"),
        _reference_packed,
        (
            "packed/index.parquet",
            "packed/prompts-00001-of-00003.safetensors",
            "packed/prompts.json",
        ),
        damage.BINARY,
    ),
    Document(
        "PEFT folders",
        _write_peft,
        _prompts("peft"),
        _reference_peft,
        tuple(
            f"peft/u001/{name}"
            for name in ("adapter_model.safetensors", "adapter_config.json", "puma.json")
        ),
        (*damage.BINARY, *damage.JSON),
    ),
    Document(
        "GGUF",
        _write_gguf,
        _read_gguf,
        _reference_gguf,
        ("tiny.gguf",),
        (damage.flip_in_head,) * 3 + damage.BINARY,
    ),
    Document(
        "adapter folder",
        _write_adapter,
        _read_adapter,
        _reference_adapter,
        ("adapter/config.json", "adapter/model.safetensors"),
        damage.JSON,
    ),
    Document(
        "study report",
        _write_report,
        _read_report,
        lambda folder: _json(folder, "table4.json"),
        ("table4.json",),
        damage.JSON,
    ),
    *(
        Document(
            f"template {name}",
            _write_template,
            partial(_read_template, name),
            partial(_reference_template, name),
            (name,),
            damage.JSON,
        )
        for name in ("own.json", "own.toml")
    ),
    Document(
        "settings",
        _write_settings,
        _read_settings,
        _reference_settings,
        ("settings.json",),
        damage.JSON,
    ),
    Document(
        "pairs.csv", _write_pairs, _read_pairs, _reference_pairs, ("pairs.csv",), damage.LINES
    ),
)
