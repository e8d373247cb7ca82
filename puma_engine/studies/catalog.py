"""The studies by name, what each is compared with, and its quick form."""

from __future__ import annotations

from puma_engine.errors import ConfigError
from puma_engine.studies.cells import Study
from puma_engine.studies.extensions import (
    adapters,
    items,
    lengths,
    mixed,
    norms,
    sizes,
    templates,
)
from puma_engine.studies.paper import figure4, figure5, figure6, table2, table3, table4

QUICK = {"users": 200, "seeds": (0, 1)}
AGAINST_RETRAINING = {"method": "retrained"}
STUDIES = {
    study.name: study
    for study in (
        Study(
            "table2",
            "Main results on every data set",
            table2,
            AGAINST_RETRAINING,
            quick=QUICK | {"users": 150, "seeds": (0,)},
        ),
        Study(
            "table3",
            "Cost against quality, over budgets and epochs",
            table3,
            {"method": "retraining, 10 epochs"},
            quick=QUICK,
        ),
        Study(
            "table4",
            "Selection strategies over budgets (also Figure 3)",
            table4,
            {"method": "random"},
            within=("share",),
            quick=QUICK | {"shares": (0.1, 0.3)},
        ),
        Study(
            "figure4",
            "Gains of every pair of five backbones",
            figure4,
            AGAINST_RETRAINING,
            within=("target",),
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "figure5",
            "Chains of two to five backbones",
            figure5,
            {"method": "direct"},
            within=("target",),
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "figure6",
            "Several sources at once",
            figure6,
            AGAINST_RETRAINING,
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "templates",
            "Prompt first, as in the paper, or item first",
            templates,
            {"method": "prompt first"},
            quick=QUICK,
        ),
        Study(
            "lengths",
            "Soft prompts of 1 to 8 tokens",
            lengths,
            AGAINST_RETRAINING,
            within=("tokens",),
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "items",
            "Item prompts: migrated, or fitted anew on the target",
            items,
            AGAINST_RETRAINING,
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "sizes",
            "Backbones of three sizes (build llama-large first)",
            sizes,
            AGAINST_RETRAINING,
            within=("target",),
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "mixed",
            "A cheap migration, then refining for some of the users",
            mixed,
            AGAINST_RETRAINING,
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "adapters",
            "Adapters of other widths and depths",
            adapters,
            {"method": "hidden 1024"},
            quick=QUICK | {"seeds": (0,)},
        ),
        Study(
            "norms",
            "Norms of mapped prompts bounded, or left free",
            norms,
            {"method": "free"},
            within=("target",),
            quick=QUICK | {"seeds": (0,)},
        ),
    )
}


def get_study(name: str) -> Study:
    """Return a study by name, or raise ConfigError that lists the names."""
    if name not in STUDIES:
        raise ConfigError(f"There is no study {name!r}; the studies are {', '.join(STUDIES)}.")
    return STUDIES[name]
