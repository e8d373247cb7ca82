"""Export prompts and adapters of a workspace for other programs, with model cards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from puma_engine.errors import ConfigError, DataError, StoreError
from puma_engine.exchange.model_card import CardContent, model_card
from puma_engine.exchange.prompt_file import with_head
from puma_engine.files import new_folder, save_tensors, write_text
from puma_engine.pipeline import stage
from puma_engine.pipeline.backbones import load_backbone
from puma_engine.pipeline.evaluating import is_of_prompts_alone
from puma_engine.pipeline.importing_data import load_dataset
from puma_engine.pipeline.stored_prompts import (
    has_model,
    load_adapter,
    load_prompts,
    model_of,
    refuse_items,
    template_of,
)
from puma_engine.store import Run, Workspace

Format = Literal["file", "parquet", "numpy", "packed", "peft"]
MAX_PEFT_FOLDERS = 1000
# Licences that those of the shipped data sets require for derived works.
LICENCES = {"goodbooks": "CC-BY-SA-4.0", "movietweetings": "MIT"}
DATA_FACTS = ("dataset", "task", "users", "items", "interactions", "content_hash")
USES = {
    "adapter": "`puma serve-adapter FOLDER`, or `puma migrate-stream IN OUT --adapter FOLDER`.",
    "prompts-packed": "`puma prompts import FOLDER --dataset DATA --backbone MODEL`; one user is row "
    "`row` of shard `shard` in `index.parquet`.",
    "prompts-peft": "`PeftModel.from_pretrained(model, FOLDER)` on one user's folder. The virtual "
    "tokens hold the text before the slot too; the model reads what stands behind it "
    "(`puma_engine.exchange.peft.input_ids`).",
}


def export_prompts(
    ws: Workspace,
    reference: stage.Reference,
    path: str | Path,
    *,
    format: Format = "file",
    users: Sequence[str] | None = None,
    shard_users: int | None = None,
    command: str | None = None,
    licence: str | None = None,
    device: str | None = None,
    form: Format | None = None,
) -> Path:
    """Write a run's prompts in a format that `import_prompts` reads back bit for bit.

    format: "file" (one safetensors file), "parquet", "numpy" (.npz), "packed" (a folder of shards
    with an index and a card) or "peft" (a folder with a PEFT prompt-tuning folder for each user).
    users: only these. shard_users: users in a shard of the format "packed" (default: SHARD_USERS).
    licence: SPDX id in the card of the formats "packed" and "peft" (default: the data's). The
    metadata contain the settings, the model and data, and the command. Raises ConfigError,
    MigrationError, TemplateError.
    """
    format = form or format
    if format not in get_args(Format):
        raise ConfigError(
            f"There is no format {format!r}; choose one of {', '.join(get_args(Format))}."
        )
    if shard_users is not None and format != "packed":
        raise ConfigError(
            f"Only the format packed has shards, so shard_users={shard_users} would change nothing in the "
            f"format {format}; leave it out, or choose packed."
        )
    if licence is not None and format not in ("packed", "peft"):
        raise ConfigError(
            f"The format {format} has no card to name a licence in; leave the licence out, or choose packed "
            "or peft."
        )
    run, file = stage.find(ws, reference, *stage.PROMPT_KINDS), Path(path)
    model = model_of(run)
    refuse_items(run, "an export of prompts")
    table, meta = load_prompts(ws, run), _meta(ws, run, command)
    if users is not None:
        chosen = list(dict.fromkeys(str(user) for user in users))
        table = dataclasses.replace(
            table, user_ids=np.array(chosen, dtype=str), vectors=table.take(chosen)
        )
    if format == "file":
        arrays = {"vectors": table.vectors} | with_head(table.head)
        save_tensors(file, arrays, meta | {"user_ids": table.user_ids.tolist()})
        return file
    from puma_engine.exchange.packed import SHARD_USERS, write_packed
    from puma_engine.exchange.peft import write_peft
    from puma_engine.exchange.prompt_formats import write_numpy, write_parquet

    if format in ("parquet", "numpy"):
        suffix = ".parquet" if format == "parquet" else ".npz"
        if file.suffix != suffix:
            raise ConfigError(f"The file {file} must end in {suffix} in this format.")
        (write_parquet if format == "parquet" else write_numpy)(file, table, meta)
        return file
    with new_folder(file) as folder:
        if format == "packed":
            write_packed(folder, table, meta, shard_users=shard_users or SHARD_USERS)
        else:
            chosen = table.user_ids.tolist()
            if len(chosen) > MAX_PEFT_FOLDERS:
                raise ConfigError(
                    f"PEFT needs a folder for each user, and these are {len(chosen):,} users; name at most "
                    f"{MAX_PEFT_FOLDERS} with --user, or choose the format packed."
                )
            backbone = load_backbone(ws, model, device=device)
            write_peft(folder, backbone, table, template_of(run), chosen, meta)
        card = card_of(ws, run, licence, kind=f"prompts-{format}")
        write_text(folder / "README.md", card)
    return file


def _meta(ws: Workspace, run: Run, command: str | None) -> dict[str, Any]:
    dataset, backbone = (ws.run(run.inputs[role]) for role in ("dataset", "backbone"))
    return {
        **template_of(run).to_config(),
        "config": run.config,
        "seed": run.seed,
        "dataset": {
            "name": dataset.summary["dataset"],
            "content_hash": dataset.summary["content_hash"],
        },
        "backbone": {name: backbone.config[name] for name in ("spec", "fingerprint")},
        "seconds": run.seconds,
        "device": run.device,
        "versions": run.versions,
        "command": command,
    }


def embed_prompts(
    ws: Workspace,
    reference: stage.Reference,
    pairs: Sequence[tuple[str, str]],
    path: str | Path,
    *,
    texts: Sequence[str | None] | None = None,
    histories: Sequence[Sequence[str]] | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> Path:
    """Write whole prompts about items as embeddings, for a server that accepts prompt embeddings.

    pairs: (user id, item id). texts: texts of items that the data set lacks or has otherwise;
    histories: ids of earlier items, for templates that show them. path: .safetensors for any number
    of pairs, or .json for one pair as the body of a POST to vLLM's /v1/completions. Raises
    DataError, MigrationError, ConfigError.
    """
    from puma_engine.backbone import Context
    from puma_engine.exchange import prompt_embeddings

    file = Path(path)
    if file.suffix not in (".safetensors", ".json"):
        raise ConfigError(f"The file {file} must end in .safetensors, or .json for one pair.")
    if not pairs or (file.suffix == ".json" and len(pairs) != 1):
        raise ConfigError(
            f"{len(pairs)} pairs were given; a .json file takes one, a .safetensors file one or more."
        )
    run = stage.find(ws, reference, *stage.PROMPT_KINDS)
    model = model_of(run)
    items = load_dataset(ws, run.inputs["dataset"]).items
    known = dict(zip(items["item_id"], items["text"], strict=True))
    if template_of(run).uses_history and histories is None:
        raise DataError(
            "This template shows what a user read before; give a table with --pairs and a column "
            "history."
        )
    texts = texts or [None] * len(pairs)
    histories = histories or [()] * len(pairs)
    rows = []
    for (user, item), text, history in zip(pairs, texts, histories, strict=True):
        unknown = [id_ for id_ in (item, *history) if id_ not in known]
        if unknown and not (unknown == [item] and text):
            raise DataError(
                f"The data set has no item {unknown[0]!r}; give an item of it, or a text with --text."
            )
        past = tuple(known[id_] for id_ in history)
        rows.append((user, item, Context(text or known[item], past)))
    table = load_prompts(ws, run)
    table.take([user for user, _ in pairs])
    backbone = load_backbone(ws, model, device=device, precision=precision)
    embedded = prompt_embeddings.embed_prompts(backbone, table, template_of(run), rows)
    if file.suffix == ".json":
        write_text(file, json.dumps(next(prompt_embeddings.requests(embedded))))
    else:
        prompt_embeddings.write_embedded(file, embedded)
    return file


def export_adapter(
    ws: Workspace, reference: stage.Reference, path: str | Path, *, licence: str | None = None
) -> Path:
    """Write a migration's adapter to a new folder in the layout of the Hugging Face Hub.

    config.json names the models that it maps from and to; README.md is its model card. licence:
    SPDX id (default: that of the data set). Raises ConfigError, StoreError.
    """
    from puma_engine.exchange.adapter_folders import AdapterFile, write_adapter

    run = stage.find(ws, reference, "migration")
    refuse_items(run, "an export of an adapter")
    tensors, meta = load_adapter(ws, run)
    count = sum(role.startswith("source_") for role in run.inputs)
    sources = [ws.run(run.inputs[f"source_{number}"]) for number in range(count)]
    config = meta | {
        **template_of(run).to_config(),
        "tokens": run.summary["tokens"],
        "sources": [_prompt_space(ws, source) for source in sources],
        "target": _prompt_space(ws, run),
        "run": run.id,
    }
    if sum(source["width"] for source in config["sources"]) != meta["d_in"]:
        raise StoreError(f"The sources of {run.name} do not add up to its adapter's input.")
    with new_folder(Path(path)) as folder:
        adapter = AdapterFile(tensors, config, load_prompts(ws, run).head)
        write_adapter(folder, adapter, card_of(ws, run, licence, kind="adapter"))
    return Path(path)


def _prompt_space(ws: Workspace, run: Run) -> dict[str, Any]:
    """Return the backbone and the width of a run's prompts; for vectors, the name of the run."""
    if not has_model(run):
        return {"vectors": run.name, "width": run.summary["width"]}
    config = ws.run(run.inputs["backbone"]).config
    version = {name: config[name] for name in ("fingerprint", "revision")}
    return {"backbone": config["spec"], **version, "width": run.summary["width"]}


def card_of(ws: Workspace, run: Run, licence: str | None, *, kind: str) -> str:
    """Return the model card of a prompts or migration run."""
    dataset, backbone = (ws.run(run.inputs[role]) for role in ("dataset", "backbone"))
    shipped = str(dataset.config.get("source", "")).split("-")[0]
    description: dict[str, Any] = {
        "role": run.config["role"],
        "template": run.config["template"],
        "users": run.summary["users"],
        "soft_tokens": run.summary["tokens"],
        "width": run.summary["width"],
        "backbone": backbone.config["spec"],
        "users_trained": run.cost.get("users_trained"),
        "seconds": run.seconds,
        "device": run.device,
        "seed": run.seed,
        "run": run.id,
    }
    evaluations = {
        dependent.id
        for dependent in ws.dependents(run.id)
        if dependent.kind == "evaluation"
        and dependent.status == "finished"
        and is_of_prompts_alone(dependent)
    }
    scores = ws.metrics()
    scores = scores[scores["run_id"].isin(evaluations) & scores["method"].isna()]
    scores = scores[["split", "metric", "value", "low", "high", "n"]]
    return model_card(
        CardContent(
            title=run.name,
            kind=kind,
            details={name: value for name, value in description.items() if value is not None},
            base_model=str(backbone.config["spec"]),
            licence=licence or LICENCES.get(shipped),
            data={key: dataset.summary[key] for key in DATA_FACTS if key in dataset.summary},
            lineage=[
                {"kind": run.kind, "name": run.name, "run": run.id, "created": run.created[:10]}
                for run in ws.lineage(run.id)
            ],
            metrics=scores.to_dict("records"),
            usage=USES[kind],
        )
    )
