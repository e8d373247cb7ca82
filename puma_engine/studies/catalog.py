"""The studies by name."""

from __future__ import annotations

from puma_engine.errors import ConfigError
from puma_engine.studies.cells import Study
from puma_engine.studies.extensions import (
    adapters,
    changes,
    chat,
    items,
    lengths,
    mixed,
    norms,
    sizes,
    templates,
)
from puma_engine.studies.paper import figure4, figure5, figure6, table2, table3, table4

_PAPER = (table2, table3, table4, figure4, figure5, figure6)
_OTHERS = (templates, lengths, items, sizes, mixed, adapters, norms, changes, chat)
STUDIES = {study.name: study for study in (*_PAPER, *_OTHERS)}


def get_study(name: str) -> Study:
    """Return a study by name. Raises ConfigError that lists the names."""
    if name not in STUDIES:
        raise ConfigError(f"There is no study {name!r}; the studies are {', '.join(STUDIES)}.")
    return STUDIES[name]
