"""puma prompts: tables of soft prompts, one row a user."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from puma_engine.cli.config_options import Device, Name, Queue, renamed_option, with_settings
from puma_engine.cli.session import run_row, session
from puma_engine.config import PromptConfig, TrainingConfig
from puma_engine.requests import FitRequest, RefineRequest

app = typer.Typer(help="Tables of soft prompts, one row a user.", no_args_is_help=True)
Data = Annotated[str, typer.Option("--dataset", help="Data set: id, prefix or name.")]
Backbone = Annotated[
    str, typer.Option("--backbone", help="Backbone run, zoo name, model folder or hub id.")
]
RoleOption = Annotated[
    str, typer.Option("--role", help="source, retrained, or random (the head alone is trained).")
]
TemplateOption = Annotated[
    str | None, typer.Option("--template", help="Prompt template (default: item first).")
]


@app.command("fit")
@with_settings(training=TrainingConfig, prompt=PromptConfig)
def fit(
    dataset: Data,
    backbone: Backbone,
    training: dict[str, Any],
    prompt: dict[str, Any],
    role: RoleOption = "source",
    template: TemplateOption = None,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Fit one soft prompt a user: what a migration starts from, or the full retraining."""
    request = FitRequest.from_arguments(locals())
    title = f"fitting {role} prompts on {backbone}"
    session().do("fit_prompts", title, request, queue=queue, device=device)


@app.command("refine")
@with_settings(training=TrainingConfig)
def refine(
    start: Annotated[str, typer.Argument(help="Migration run whose prompts are fitted further.")],
    training: dict[str, Any],
    selection: Annotated[
        str | None, typer.Option("--selection", help="Selection run: refine only its users.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", help="Refine only this share: those who will most likely regress."),
    ] = None,
    item_tokens: Annotated[
        int,
        typer.Option("--item-tokens", min=0, help="Soft prompt tokens of each item, fitted too."),
    ] = 0,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Fit migrated prompts further on the target, for a few epochs."""
    request = RefineRequest.from_arguments(locals())
    session().do("refine", f"refining {start}", request, queue=queue, device=device)


@app.command("import")
def import_(
    path: Annotated[
        Path,
        typer.Argument(help="File or folder with prompts: see docs/prompts.md for the formats."),
    ],
    dataset: Data,
    backbone: Backbone,
    users: Annotated[
        Path | None,
        typer.Option("--users", help="File with the user id of each row, if the table has none."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="Soft tokens a user, where rows are flat.")
    ] = None,
    head: Annotated[
        str,
        typer.Option("--head", help="auto trains a head for prompts that bring none; or none."),
    ] = "auto",
    role: RoleOption = "source",
    template: TemplateOption = None,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Import prompts that were fitted elsewhere, keyed by user id."""
    session().do(
        "import_prompts",
        f"importing {path.name}",
        queue=queue,
        dataset=dataset,
        backbone=backbone,
        path=str(path.resolve()),
        users=None if users is None else str(users.resolve()),
        tokens=tokens,
        head=head,
        role=role,
        template=template,
        name=name,
        device=device,
    )


Prompts = Annotated[str, typer.Argument(help="Prompts or migration run: id, prefix or name.")]


@app.command("export")
def export(
    prompts: Prompts,
    out: Annotated[Path, typer.Option("--out", help="File or new folder to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="file (.safetensors), parquet, numpy, packed or peft.")
    ] = "file",
    user: Annotated[
        list[str] | None, typer.Option("--user", help="Only this user; repeat it.")
    ] = None,
    shard_users: Annotated[
        int, typer.Option("--shard-users", help="Users a shard, in the format packed.")
    ] = 50_000,
    licence: Annotated[
        str | None, typer.Option("--licence", help="SPDX id for the card (default: the data's).")
    ] = None,
    made_by: Annotated[
        str | None,
        typer.Option("--made-by", help="Command to record as the origin (default: this one)."),
    ] = None,
    device: Device = None,
    form: Annotated[str | None, renamed_option("--form", "--format")] = None,
) -> None:
    """Write a run's prompts, keyed by user id, for import elsewhere or for a server."""
    from puma_engine.pipeline import export_prompts

    command = made_by or shlex.join(["puma", *sys.argv[1:]])
    written = export_prompts(
        session().open(),
        prompts,
        out,
        format=form or format_,  # type: ignore[arg-type]  # export_prompts checks it
        users=user or None,
        shard_users=shard_users,
        command=command,
        licence=licence,
        device=device,
    )
    files = [written] if written.is_file() else [f for f in written.rglob("*") if f.is_file()]
    kind = "file" if written.is_file() else "folder"
    session().show({kind: str(written), "bytes": sum(file.stat().st_size for file in files)})


@app.command("embed")
def embed(
    prompts: Prompts,
    out: Annotated[
        Path, typer.Option("--out", help=".safetensors, or .json for the request of one pair.")
    ],
    user: Annotated[str | None, typer.Option("--user", help="User id of one pair.")] = None,
    item: Annotated[str | None, typer.Option("--item", help="Item id of one pair.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Text of the item, if the data set has another.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", help="CSV or Parquet with user_id, item_id, perhaps text and history."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")
    ] = "auto",
    device: Device = None,
) -> None:
    """Write whole prompts about items as embeddings, as vLLM's --enable-prompt-embeds takes them."""
    from puma_engine.exchange.pairs import read_pairs
    from puma_engine.pipeline import embed_prompts

    rows = read_pairs(pairs, user, item, text)
    written = embed_prompts(
        session().open(),
        prompts,
        rows.pairs,
        out,
        texts=rows.texts,
        histories=rows.histories,
        device=device,
        precision=precision,
    )
    facts = {"file": str(written), "pairs": len(rows.pairs), "bytes": written.stat().st_size}
    session().show(facts)


@app.command("list")
def list_() -> None:
    """List prompt tables: fitted, imported and migrated."""
    ws = session().open()
    runs = [run for kind in ("prompts", "migration") for run in ws.runs(kind=kind)]
    session().table([run_row(run) | {"role": run.config["role"]} for run in runs], raw=runs)
