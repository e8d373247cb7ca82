"""puma models: language models that can serve as backbones."""

from __future__ import annotations

from typing import Annotated

import typer

from puma_engine.cli.config_options import Device, Name, Queue
from puma_engine.cli.session import session

app = typer.Typer(help="Language models that can serve as backbones.", no_args_is_help=True)
Spec = Annotated[str, typer.Argument(help="Zoo name, model folder, or hub id such as owner/name.")]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")
]


Quantise = Annotated[
    str | None,
    typer.Option(
        "--quantise", help="4bit or 8bit (needs the package bitsandbytes), or fp8 (on a GPU)."
    ),
]


@app.command("check")
def check(
    spec: Spec,
    revision: Revision = None,
    quantise: Quantise = None,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")
    ] = "auto",
    seconds: Annotated[
        float, typer.Option("--seconds", help="Seconds of the speed measurement; 0 skips it.")
    ] = 5.0,
    device: Device = None,
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
    )
    if session().as_json:
        session().json(card)
        return
    templates = card.pop("templates")
    warnings = card.pop("warnings")
    session().show(card)
    for name, template in templates.items():
        answers = "  ".join(f"{a} = {t}" for a, t in template["answer_tokens"].items())
        print(f"\n{name}: slot at position {template['slot_position']}; answers {answers}")
        print("  " + " ".join(template["tokens"]))
    print()
    for warning in warnings or ["No warnings."]:
        print(f"Warning: {warning}" if warnings else warning)


@app.command("add")
def add(
    spec: Spec,
    revision: Revision = None,
    quantise: Quantise = None,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Check a model and add it to the workspace."""
    session().do(
        "add_backbone",
        f"inspecting {spec}",
        queue=queue,
        spec=spec,
        revision=revision,
        quantise=quantise,
        name=name,
        device=device,
    )


@app.command("list")
def list_() -> None:
    """List the backbones of the workspace."""
    runs = session().open().runs(kind="backbone")
    facts = ("family", "layers", "width", "vocabulary", "parameters", "memory_bytes")
    rows = [
        {"id": run.id, "name": run.name, "status": run.status}
        | {key: run.summary.get(key) for key in facts}
        for run in runs
    ]
    session().table(rows, raw=runs)
