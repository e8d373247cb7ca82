"""Prompts and adapters of a workspace, written for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from puma_engine.errors import ConfigError, DataError, StoreError
from puma_engine.exchange.prompt_file import with_head
from puma_engine.files import atomic_write, new_folder, save_tensors
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.card_facts import card_of
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stage import PROMPT_KINDS, Reference, find
from puma_engine.pipeline.stored_prompts import load_adapter, load_prompts, refuse_items
from puma_engine.store import Run, Workspace

if TYPE_CHECKING:
    from puma_engine.backbone import Context
    from puma_engine.prompts.table import PromptTable

Format = Literal["file", "parquet", "numpy", "packed", "peft"]
MOST_FOLDERS = 1000


def export_prompts(
    ws: Workspace,
    reference: Reference,
    path: str | Path,
    *,
    format: Format = "file",
    users: Sequence[str] | None = None,
    shard_users: int = 50_000,
    command: str | None = None,
    licence: str | None = None,
    device: str | None = None,
    form: Format | None = None,
) -> Path:
    """Write a run's prompts in a format that `import_prompts` reads back bit for bit.

    format: "file" (one safetensors file), "parquet", "numpy" (.npz), "packed" (a folder of
    shards with an index and a card) or "peft" (a folder of PEFT prompt-tuning folders, one
    a user). users: only these. Metadata hold the settings, what the prompts were fitted on,
    and the command that made them. Raises ConfigError, MigrationError, TemplateError.
    """
    format = form or format
    if format not in get_args(Format):
        raise ConfigError(
            f"There is no format {format!r}; choose one of {', '.join(get_args(Format))}."
        )
    run, file = find(ws, reference, *PROMPT_KINDS), Path(path)
    refuse_items(run, "an export of prompts")
    table = _only(load_prompts(ws, run), users)
    meta = _meta(ws, run, command)
    if format == "file":
        arrays = {"vectors": table.vectors} | with_head(table.head)
        save_tensors(file, arrays, meta | {"user_ids": table.user_ids.tolist()})
        return file
    from puma_engine.exchange.packed import write_packed
    from puma_engine.exchange.prompt_formats import write_numpy, write_parquet

    if format in ("parquet", "numpy"):
        write = write_parquet if format == "parquet" else write_numpy
        write(_with_suffix(file, ".parquet" if format == "parquet" else ".npz"), table, meta)
        return file
    with new_folder(file) as folder:
        if format == "packed":
            write_packed(folder, table, meta, shard_users=shard_users)
        else:
            _peft(ws, run, table, meta, folder, device)
        _write_card(folder, card_of(ws, run, licence, kind=f"prompts-{format}"))
    return file


def _only(table: PromptTable, users: Sequence[str] | None) -> PromptTable:
    import dataclasses

    import numpy as np

    if users is None:
        return table
    chosen = list(dict.fromkeys(str(user) for user in users))
    vectors = table.take(chosen)
    return dataclasses.replace(table, user_ids=np.array(chosen, dtype=str), vectors=vectors)


def _with_suffix(file: Path, suffix: str) -> Path:
    if file.suffix != suffix:
        raise ConfigError(f"The file {file} must end in {suffix} in this format.")
    return file


def _meta(ws: Workspace, run: Run, command: str | None) -> dict[str, Any]:
    dataset, backbone = (ws.run(run.inputs[role]) for role in ("dataset", "backbone"))
    return {
        "template": run.config["template"],
        "config": run.config,
        "seed": run.seed,
        "dataset": {
            "name": dataset.summary["dataset"],
            "content_hash": dataset.summary["content_hash"],
        },
        "backbone": {
            "spec": backbone.config["spec"],
            "fingerprint": backbone.config["fingerprint"],
        },
        "seconds": run.seconds,
        "device": run.device,
        "versions": run.versions,
        "command": command,
    }


def _peft(
    ws: Workspace,
    run: Run,
    table: PromptTable,
    meta: dict[str, Any],
    folder: Path,
    device: str | None,
) -> None:
    from puma_engine.exchange.peft import write_peft

    users = table.user_ids.tolist()
    if len(users) > MOST_FOLDERS:
        raise ConfigError(
            f"PEFT needs a folder a user, and these are {len(users):,} users; name at most "
            f"{MOST_FOLDERS} with --user, or choose the format packed."
        )
    backbone = load_backbone(ws, run.inputs["backbone"], device=device)
    write_peft(folder, backbone, table, run.config["template"], users, meta)


def _write_card(folder: Path, text: str) -> None:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    atomic_write(folder / "README.md", write)


def embed_prompts(
    ws: Workspace,
    reference: Reference,
    pairs: Sequence[tuple[str, str]],
    path: str | Path,
    *,
    texts: Sequence[str | None] | None = None,
    histories: Sequence[Sequence[str]] | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> Path:
    """Write whole prompts about items as embeddings, for a server that takes such.

    pairs: (user id, item id). texts: an item's text where the data set has none or another;
    histories: item ids read before, for templates that show them. path: .safetensors for all
    pairs, or .json for one pair as the body of a POST to vLLM's /v1/completions. Raises
    DataError, MigrationError, ConfigError.
    """
    file = Path(path)
    if file.suffix not in (".safetensors", ".json"):
        raise ConfigError(f"The file {file} must end in .safetensors, or .json for one pair.")
    if not pairs or (file.suffix == ".json" and len(pairs) != 1):
        raise ConfigError(f"{len(pairs)} pairs came; a .json file takes one, others one or more.")
    run = find(ws, reference, *PROMPT_KINDS)
    rows = _contexts(ws, run, pairs, texts, histories)
    from puma_engine.exchange import prompt_embeddings

    table = load_prompts(ws, run)
    table.take([user for user, _ in pairs])
    backbone = load_backbone(ws, run.inputs["backbone"], device=device, precision=precision)
    found = prompt_embeddings.embed_prompts(backbone, table, run.config["template"], rows)
    if file.suffix == ".json":
        body = json.dumps(next(prompt_embeddings.requests(found)))
        atomic_write(file, lambda temporary: _text(temporary, body))
    else:
        prompt_embeddings.write_embedded(file, found)
    return file


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _contexts(
    ws: Workspace,
    run: Run,
    pairs: Sequence[tuple[str, str]],
    texts: Sequence[str | None] | None,
    histories: Sequence[Sequence[str]] | None,
) -> list[tuple[str, str, Context]]:
    from puma_engine.backbone import Context
    from puma_engine.backbone.templates import get_template

    items = load_dataset(ws, run.inputs["dataset"]).items
    known = dict(zip(items["item_id"], items["text"], strict=True))
    if get_template(run.config["template"]).uses_history and histories is None:
        raise DataError(
            "This template shows what a user read before; give a table with --pairs and a column "
            "history."
        )
    own = texts or [None] * len(pairs)
    read = histories or [()] * len(pairs)
    found = []
    for (user, item), text, history in zip(pairs, own, read, strict=True):
        lost = [one for one in (item, *history) if one not in known]
        if lost and not (lost == [item] and text):
            raise DataError(
                f"The data set has no item {lost[0]!r}; give an item of it, or a text with --text."
            )
        past = tuple(known[one] for one in history)
        found.append((user, item, Context(text or known[item], past)))
    return found


def export_adapter(
    ws: Workspace, reference: Reference, path: str | Path, *, licence: str | None = None
) -> Path:
    """Write a migration's adapter to a new folder in the hub's conventions.

    Its config.json tells what it maps from and to; README.md is its model card.
    """
    from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter

    run = find(ws, reference, "migration")
    refuse_items(run, "an export of an adapter")
    tensors, meta = load_adapter(ws, run)
    sources = [ws.run(run.inputs[role]) for role in sorted(run.inputs) if role[:7] == "source_"]
    config = meta | {
        "tokens": run.summary["tokens"],
        "template": run.config["template"],
        "sources": [_end(ws, one) for one in sources],
        "target": _end(ws, run),
        "run": run.id,
    }
    if sum(source["width"] for source in config["sources"]) != meta["d_in"]:
        raise StoreError(f"The sources of {run.name} do not add up to its adapter's input.")
    with new_folder(Path(path)) as folder:
        adapter = AdapterFile(tensors, config, load_prompts(ws, run).head)
        write_adapter(folder, adapter, card_of(ws, run, licence, kind="adapter"))
    return Path(path)


def _end(ws: Workspace, run: Run) -> dict[str, Any]:
    """What prompts of a run were made for."""
    backbone = ws.run(run.inputs["backbone"])
    return {
        "backbone": backbone.config["spec"],
        "fingerprint": backbone.config["fingerprint"],
        "revision": backbone.config["revision"],
        "width": run.summary["width"],
    }
