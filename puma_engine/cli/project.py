"""puma project: maps of users before and after a migration."""

from __future__ import annotations

from typing import Annotated

import typer

from puma_engine.cli.config_options import Name, Queue
from puma_engine.cli.session import session

Seed = Annotated[int, typer.Option("--seed", help="Random seed.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the tree."""
    app.command("project")(project)


def project(
    source: Annotated[str, typer.Argument(help="Prompts or migration run: the first map.")],
    migrated: Annotated[
        str,
        typer.Argument(help="Prompts or migration run: the second map, aligned with the first."),
    ],
    method: Annotated[str, typer.Option("--method", help="umap, or pca (fast).")] = "umap",
    most: Annotated[
        int,
        typer.Option(
            "--most", help="Maximum number of points; with more users a random sample is drawn."
        ),
    ] = 50_000,
    clusters: Annotated[int, typer.Option("--clusters", help="Clusters of k-means.")] = 15,
    neighbours: Annotated[
        int,
        typer.Option(
            "--neighbours", help="Neighbours for UMAP and for the trustworthiness measure."
        ),
    ] = 15,
    seed: Seed = 0,
    name: Name = None,
    queue: Queue = False,
) -> None:
    """Project two prompt tables of the same users to aligned maps and measure their trustworthiness."""
    session().do(
        "project",
        f"drawing {source} and {migrated}",
        queue=queue,
        source=source,
        migrated=migrated,
        method=method,
        most=most,
        clusters=clusters,
        neighbours=neighbours,
        seed=seed,
        name=name,
    )
