"""puma prompts: tables of soft prompts, one row for each user."""

import shlex
import sys
from pathlib import Path

import typer

from puma_engine.cli.options import stage, with_options
from puma_engine.cli.session import run_row, session
from puma_engine.requests import FitRequest, RefineRequest

app = typer.Typer(name="prompts", help="Tables of soft prompts, one row for each user.")
DATASET = "Data set: id, prefix or name."
TEMPLATE = "Prompt template: a name, or a file with your own (default: prompt last for ratings, item first for clicks)."
PROMPTS = "Prompts or migration run: id, prefix or name."


@app.command()
@stage("fit_prompts", dataset=DATASET, template=TEMPLATE)
def fit(request: FitRequest) -> str:
    """Fit one soft prompt for each user: the start of a migration, or the full retraining."""
    return f"fitting {request.role} prompts on {request.backbone}"


@app.command()
@stage(
    "refine",
    "start",
    backbone="Another version of the prompts' model, of the same width: prompts are fitted further on it, without a "
    "migration.",
    template="Another template, for which prompts are fitted further without a migration: a name, or a file with your own.",
    selection="Selection run: refine only its users.",
    share="Refine only this share: those who will most likely regress.",
)
def refine(request: RefineRequest) -> str:
    """Fit migrated prompts further on the target, for a few epochs.

    With --backbone or --template, START may be any prompts: they are fitted further for another
    version of their model, such as other weights of the same width, or for other words.
    """
    return f"refining {request.start}"


@app.command("import")
@stage(
    "import_prompts",
    "path",
    path="File or folder with prompts or vectors: see docs/prompts.md for the formats.",
    dataset=DATASET,
    backbone="Backbone of the prompts (default: none; they are vectors of another origin).",
    users="File with the user id of each row, if the table has none.",
    tokens="Soft tokens of each user, where rows are flat.",
    items="Table with vectors of items, beside users' vectors.",
    item_ids="File with the item id of each row of --items, if the table has none.",
    vector_columns="Columns of a table that are numbers of the vectors, separated by commas; * stands for any "
    "text, as in 'bias,d*' (default: all but the ids).",
    head="auto keeps the head of a file that PUMA wrote, and trains one for other prompts; none imports them "
    "without a head: to be migrated, not evaluated.",
    template=TEMPLATE,
)
def import_(
    path: Path,
    dataset: str,
    backbone: str | None = None,
    users: Path | None = None,
    tokens: int | None = None,
    items: Path | None = None,
    item_ids: Path | None = None,
    vector_columns: str | None = None,
    head: str = "auto",
    role: str = "source",
    template: str | None = None,
    name: str | None = None,
) -> str:
    """Import prompts that were fitted elsewhere, or any other vectors, keyed by user id.

    Without --backbone the table holds vectors that no language model made, such as those of a
    recommender, to start a migration from.
    """
    return f"importing {path.name}"


@app.command()
@stage(
    "vectors_from_baseline",
    "dataset",
    device=False,
    dataset=DATASET,
    factors={
        "help": "Factors of each user and item (default: chosen on validation rows).",
        "min": 1,
    },
    users_only="Leave out the items' vectors.",
    seed="Seed of the items' first factors.",
)
def from_baseline(
    dataset: str,
    factors: int | None = None,
    users_only: bool = False,
    seed: int = 0,
    name: str | None = None,
) -> str:
    """Take users' and items' vectors from matrix factorisation, to start a migration from."""
    return f"factorising {dataset}"


@app.command()
@with_options(
    "prompts",
    prompts=PROMPTS,
    out="File or new folder to write.",
    format_="file (.safetensors), parquet, numpy, packed or peft.",
    user="Only this user; repeat it.",
    shard_users={"help": "Users a shard, in the format packed (default: 50,000).", "min": 1},
    licence="SPDX id for the card of the formats packed and peft (default: the data's).",
    made_by="Command to record as the origin (default: this one).",
)
def export(
    prompts: str,
    out: Path,
    format_: str = "file",
    user: list[str] | None = None,
    shard_users: int | None = None,
    licence: str | None = None,
    made_by: str | None = None,
    device: str | None = None,
) -> None:
    """Write a run's prompts, keyed by user id, for import elsewhere or for a server."""
    from puma_engine.pipeline import export_prompts

    command = made_by or shlex.join(["puma", *sys.argv[1:]])
    written = export_prompts(
        session.open(),
        prompts,
        out,
        format=format_,  # type: ignore[arg-type]  # export_prompts checks it
        users=user or None,
        shard_users=shard_users,
        command=command,
        licence=licence,
        device=device,
    )
    files = [written] if written.is_file() else [f for f in written.rglob("*") if f.is_file()]
    kind = "file" if written.is_file() else "folder"
    session.show({kind: str(written), "bytes": sum(file.stat().st_size for file in files)})


@app.command()
@with_options(
    "prompts",
    prompts=PROMPTS,
    out=".safetensors, or .json for the request of one pair.",
    user="User id of one pair.",
    item="Item id of one pair.",
    text="Text of the item, if the data set has another.",
    pairs="CSV or Parquet with user_id, item_id, perhaps text and history.",
)
def embed(
    prompts: str,
    out: Path,
    user: str | None = None,
    item: str | None = None,
    text: str | None = None,
    pairs: Path | None = None,
    precision: str = "auto",
    device: str | None = None,
) -> None:
    """Write whole prompts about items as embeddings, in the format of vLLM's --enable-prompt-embeds."""
    from puma_engine.exchange.pairs import read_pairs
    from puma_engine.pipeline import embed_prompts

    rows = read_pairs(pairs, user, item, text)
    written = embed_prompts(
        session.open(),
        prompts,
        rows.pairs,
        out,
        texts=rows.texts,
        histories=rows.histories,
        device=device,
        precision=precision,
    )
    record = {"file": str(written), "pairs": len(rows.pairs), "bytes": written.stat().st_size}
    session.show(record)


@app.command("list")
def list_() -> None:
    """List prompt tables: fitted, imported and migrated."""
    ws = session.open()
    runs = [run for kind in ("prompts", "migration") for run in ws.runs(kind=kind)]
    session.table([run_row(run) | {"role": run.config["role"]} for run in runs], raw=runs)
