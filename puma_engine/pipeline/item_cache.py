"""The cache of keys and values of items between runs: in the workspace, for large models on a CPU."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

from puma_engine.errors import ConfigError
from puma_engine.store import Run, Workspace
from puma_engine.store.workspace import ITEM_CACHE

if TYPE_CHECKING:
    from puma_engine.backbone import FrozenBackbone
    from puma_engine.backbone.prefix_store import PrefixStore

VARIABLE = "PUMA_ITEM_CACHE_MIB"
DEFAULT_MIB = 2048
# The cache takes at most this share of what the disk has free without it.
DISK_SHARE = 0.25
# Smaller models read an item in less time than its file takes.
MIN_LAYER_WEIGHTS = 20_000_000


def item_store(ws: Workspace, run: Run, backbone: FrozenBackbone) -> PrefixStore | None:
    """Return where the keys and values of items of a model are kept, or None if they are not.

    They are kept for models of MIN_LAYER_WEIGHTS weights and more on a CPU, within the budget of
    PUMA_ITEM_CACHE_MIB (0: nowhere). Raises ConfigError for a budget that is not a number.
    """
    from puma_engine.backbone.prefix_store import PrefixStore, store_key

    small = backbone.layer_weights < MIN_LAYER_WEIGHTS
    if small or ws.read_only or backbone.device.type != "cpu" or not (budget := _budget(ws)):
        return None
    key = store_key(run.config["fingerprint"], backbone.dtype, backbone.info.quantised)
    return PrefixStore(ws.root / ITEM_CACHE, key, budget)


def item_cache_cost(backbone: FrozenBackbone) -> dict[str, Any]:
    """Return the items that came from disk since the model last forgot its reader, for a run's cost.

    items_from_disk: how many; item_seconds_from_disk: the seconds that computing them took when
    they were computed, which the run's own seconds lack.
    """
    store = backbone.prefix_store
    if store is None or not store.hits:
        return {}
    return {"items_from_disk": store.hits, "item_seconds_from_disk": round(store.hit_seconds, 3)}


def _budget(ws: Workspace) -> int:
    text = os.environ.get(VARIABLE, str(DEFAULT_MIB))
    try:
        budget = int(float(text) * (1 << 20))
    except (ValueError, OverflowError):
        budget = -1
    if budget < 0:
        raise ConfigError(f"{VARIABLE} is {text!r}; it must be a number of MiB, 0 or more.")
    used = 0
    for file in (ws.root / ITEM_CACHE).rglob("*"):
        # Another process may remove files meanwhile, to make room.
        with contextlib.suppress(OSError):
            used += file.stat().st_size if file.is_file() else 0
    return min(budget, int(DISK_SHARE * (shutil.disk_usage(ws.root).free + used)))
