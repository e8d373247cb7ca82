"""The facts of a run, as its model card tells them."""

from __future__ import annotations

from typing import Any

from puma_engine.exchange.model_card import CardFacts, model_card
from puma_engine.store import Run, Workspace

# Of the data sets that ship, what their licence asks of what is made from them.
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


def card_of(ws: Workspace, run: Run, licence: str | None, *, kind: str) -> str:
    """Return the model card of a prompts or migration run."""
    dataset, backbone = (ws.run(run.inputs[role]) for role in ("dataset", "backbone"))
    shipped = str(dataset.config.get("source", "")).split("-")[0]
    about: dict[str, Any] = {
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
    return model_card(
        CardFacts(
            title=run.name,
            kind=kind,
            about={name: value for name, value in about.items() if value is not None},
            base_model=str(backbone.config["spec"]),
            licence=licence or LICENCES.get(shipped),
            data={key: dataset.summary[key] for key in DATA_FACTS if key in dataset.summary},
            lineage=[
                {"kind": one.kind, "name": one.name, "run": one.id, "created": one.created[:10]}
                for one in ws.lineage(run.id)
            ],
            metrics=_metrics(ws, run),
            usage=USES[kind],
        )
    )


def _metrics(ws: Workspace, run: Run) -> list[dict[str, Any]]:
    """The pooled metrics of every finished evaluation of a run, with their intervals."""
    scored = {
        one.id
        for one in ws.dependents(run.id)
        if one.kind == "evaluation" and one.status == "finished"
    }
    frame = ws.metrics()
    rows = frame[frame["run_id"].isin(scored) & frame["method"].isna()]
    names = ["split", "metric", "value", "low", "high", "n"]
    return [dict(zip(names, row, strict=True)) for row in rows[names].itertuples(index=False)]
