"""puma models and puma zoo: language models that can serve as backbones."""

import sys
from pathlib import Path

import typer

from puma_engine.cli.options import stage, with_options
from puma_engine.cli.session import session
from puma_engine.errors import ConfigError

app = typer.Typer(name="models", help="Language models that can serve as backbones.")
zoo = typer.Typer(name="zoo", help="The small backbones that ship with the checkout.")
SPEC = "Zoo name, smollm2, model folder, GGUF file, or hub id such as owner/name."
QUANTISE = "4bit or 8bit (needs the package bitsandbytes), or fp8 (on a GPU)."


@app.command()
@with_options(
    "spec",
    spec=SPEC,
    quantise=QUANTISE,
    seconds="Seconds of the speed measurement; 0 skips it.",
    template="File with a template of your own to show, too (.toml or .json).",
    chat_template="Show it, or the default templates, in the model's chat template.",
)
def check(
    spec: str,
    revision: str | None = None,
    quantise: str | None = None,
    precision: str = "auto",
    seconds: float = 5.0,
    device: str | None = None,
    template: str | None = None,
    chat_template: bool = False,
) -> None:
    """Check whether a model can be a backbone; show tokens, prompt slot, speed and warnings.

    Records nothing. Exits with 1 and names the part that fails if the model cannot be used.
    """
    from puma_engine.backbone import inspect_backbone

    card = inspect_backbone(
        spec,
        device=device,
        precision=precision,
        revision=revision,
        quantise=quantise,
        seconds=seconds,
        template=template,
        chat_template=chat_template,
        announce=lambda text: print(f"{spec}: {text}", file=sys.stderr),
    )
    if session.as_json:
        session.json(card)
        return
    templates, warnings = card.pop("templates"), card.pop("warnings")
    session.show(card)
    for name, shown in templates.items():
        answers = "  ".join(f"{a} = {t}" for a, t in shown["answer_tokens"].items())
        last = " (the last)" if shown["slot_position"] == len(shown["tokens"]) - 1 else ""
        print(f"\n{name}: slot at position {shown['slot_position']}{last}; answers {answers}")
        print("  " + " ".join(shown["tokens"]))
    print()
    for warning in warnings or ["No warnings."]:
        print(f"Warning: {warning}" if warnings else warning)


@app.command()
@stage("add_backbone", "spec", spec=SPEC, quantise=QUANTISE)
def add(
    spec: str, revision: str | None = None, quantise: str | None = None, name: str | None = None
) -> str:
    """Check a model and add it to the workspace."""
    return f"inspecting {spec}"


@app.command()
@with_options(
    "spec",
    "folder",
    spec=SPEC,
    folder="New folder to write.",
    precision="Of the stored weights: bf16, fp16 or fp32.",
    round_to="Round the matrices to GGUF's Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0 before.",
)
def convert(
    spec: str,
    folder: Path,
    precision: str = "bf16",
    round_to: str | None = None,
    revision: str | None = None,
) -> None:
    """Write a model as a folder of safetensors: dequantised from GGUF, or with rounded weights.

    Records nothing; `puma models add` takes the folder.
    """
    from puma_engine.backbone import convert_model

    session.show(
        convert_model(spec, folder, precision=precision, round_to=round_to, revision=revision)
    )


@app.command("list")
def list_() -> None:
    """List the backbones of the workspace."""
    columns = ("family", "layers", "width", "vocabulary", "parameters", "memory_bytes")
    session.list_runs("backbone", *columns)


@zoo.command("list")
def list_zoo() -> None:
    """List the zoo's backbones and whether their weights are present."""
    from puma_engine.pipeline import list_zoo as read_zoo

    rows = read_zoo()
    columns = ("name", "family", "role", "width", "layers", "parameters", "tokenizer", "built")
    shown = [{name: row.get(name) for name in columns} for row in rows]
    for row in shown:
        if isinstance(row["tokenizer"], dict):
            row["tokenizer"] = row["tokenizer"]["kind"]
    session.table(shown, raw=rows)


@zoo.command(
    "build",
    hidden=True,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def build_zoo() -> None:
    """Name the command that replaces this one."""
    raise ConfigError(
        "`puma zoo build` was removed; in a checkout, `python -m research.zoo --only NAME` builds a model."
    )
