"""puma select, migrate, aggregate, chain, predict-regressions."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from puma_engine.cli.config_options import Device, Name, Queue, renamed_option, with_settings
from puma_engine.cli.session import session
from puma_engine.config import AdapterConfig, TrainingConfig
from puma_engine.requests import ChainRequest, MigrationRequest, SelectionRequest

Source = Annotated[str, typer.Argument(help="Prompts or migration run to start from.")]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", help="Strategy that chooses users, such as kmeans-variance."),
]
Budget = Annotated[int | None, typer.Option("--budget", help="Users who train the adapter.")]
Share = Annotated[
    float | None, typer.Option("--share", help="The budget as a share of the users, in (0, 1].")
]
Data = Annotated[str | None, typer.Option("--dataset", help="Data set (default: the source's).")]
TemplateOption = Annotated[
    str | None, typer.Option("--template", help="Prompt template (default: the source's).")
]
Selection = Annotated[
    str | None, typer.Option("--selection", help="Selection run whose users train the adapter.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every draw.")]
Clusters = Annotated[int, typer.Option("--clusters", help="Clusters of k-means.")]
Strata = Annotated[
    int, typer.Option("--strata", help="Strata of variance or loss in each cluster.")
]
Groups = Annotated[int | None, renamed_option("--groups", "--strata")]
MinCluster = Annotated[
    int,
    typer.Option(
        "--min-cluster", help="Users that each cluster is given at least, if it has them."
    ),
]
BOTH = {"training": TrainingConfig, "adapter": AdapterConfig}


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the tree."""
    app.command("select")(select)
    app.command("migrate")(with_settings(**BOTH)(migrate))
    app.command("aggregate")(with_settings(**BOTH)(aggregate))
    app.command("chain")(with_settings(**BOTH)(chain))
    app.command("predict-regressions")(predict_regressions)


def select(
    prompts: Source,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help="all, random, variance, loss, kmeans, kmeans-pca, kmeans-farthest, kmeans-loss, "
            "kmeans-variance, ffn-kmeans, ffn-loss, ffn-variance, facility, activity, most-active "
            "or kmeans-activity (default: facility for ratings, kmeans-variance for clicks).",
        ),
    ] = None,
    budget: Budget = None,
    share: Share = None,
    seed: Seed = 0,
    clusters: Clusters = 15,
    strata: Strata = 5,
    min_cluster: MinCluster = 50,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
    groups: Groups = None,
) -> None:
    """Choose the users on whom an adapter will be trained."""
    strata = strata if groups is None else groups
    request = SelectionRequest.from_arguments(locals())
    title = f"selecting users{f' by {strategy}' if strategy else ''}"
    session().do("select", title, request, queue=queue, device=device)


def migrate(
    source: Source,
    target: Annotated[
        str, typer.Argument(help="Backbone to move to: run, zoo name, model folder or hub id.")
    ],
    training: dict[str, Any],
    adapter: dict[str, Any],
    selection: Selection = None,
    strategy: Strategy = None,
    budget: Budget = None,
    share: Share = None,
    dataset: Data = None,
    template: TemplateOption = None,
    shuffled: Annotated[
        bool,
        typer.Option("--shuffled", help="The control: each user gets another's source prompt."),
    ] = False,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Move prompts to another backbone: train an adapter on some users, map everybody."""
    seed = training.pop("seed", None)
    request = MigrationRequest.from_arguments(locals() | {"sources": source})
    title = f"migrating {source} to {target}"
    session().do("migrate", title, request, queue=queue, device=device)


def aggregate(
    sources: Annotated[list[str], typer.Argument(help="Prompts or migration runs, two or more.")],
    target: Annotated[
        str, typer.Option("--target", help="Backbone: run, zoo name, model folder or hub id.")
    ],
    training: dict[str, Any],
    adapter: dict[str, Any],
    missing: Annotated[
        str,
        typer.Option(
            "--missing",
            help="A user whom a source lacks: mean (gets its mean prompt) or drop (is left out).",
        ),
    ] = "mean",
    selection: Selection = None,
    strategy: Strategy = None,
    budget: Budget = None,
    share: Share = None,
    dataset: Data = None,
    template: TemplateOption = None,
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Migrate several sources at once: their prompts side by side, joined by user id."""
    if len(sources) < 2:
        raise typer.BadParameter("aggregate needs two sources or more; for one, use migrate.")
    seed = training.pop("seed", None)
    request = MigrationRequest.from_arguments(locals())
    title = f"aggregating {len(sources)} sources to {target}"
    session().do("migrate", title, request, queue=queue, device=device)


def chain(
    source: Source,
    targets: Annotated[
        list[str], typer.Argument(help="Backbones in order: runs, zoo names, folders or hub ids.")
    ],
    training: dict[str, Any],
    adapter: dict[str, Any],
    strategy: Strategy = None,
    budget: Budget = None,
    share: Share = None,
    dataset: Data = None,
    template: TemplateOption = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Migrate hop after hop, each hop from the prompts that the last one made."""
    seed = training.pop("seed", None)
    request = ChainRequest.from_arguments(locals())
    title = f"migrating {source} over {len(targets)} backbones"
    session().do("chain", title, request, queue=queue, device=device)


def predict_regressions(
    migration: Annotated[str, typer.Argument(help="Migration run.")],
    share: Annotated[
        float, typer.Option("--share", help="Share of its users to select, in (0, 1].")
    ],
    name: Name = None,
    device: Device = None,
    queue: Queue = False,
) -> None:
    """Select the users whose train loss grew most: who will likely regress, before retraining."""
    session().do(
        "predict_regressions",
        f"predicting regressions of {migration}",
        queue=queue,
        migration=migration,
        share=share,
        name=name,
        device=device,
    )
