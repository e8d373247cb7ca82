"""The cache of keys and values of items in the workspace, for large models on a CPU."""

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
# The cache takes at most this share of the disk space that would be free without it.
DISK_SHARE = 0.25
# Smaller models compute an item in less time than reading its file takes.
MIN_LAYER_WEIGHTS = 20_000_000


def item_store(ws: Workspace, run: Run, backbone: FrozenBackbone) -> PrefixStore | None:
    """Return the store of a model's keys and values of items, or None if they are not cached.

    They are cached for models of MIN_LAYER_WEIGHTS weights and more on a CPU, within the budget of
    PUMA_ITEM_CACHE_MIB (0: no cache). Raises ConfigError for a budget that is not a number.
    """
    from puma_engine.backbone.prefix_store import PrefixStore, store_key

    small = backbone.layer_weights < MIN_LAYER_WEIGHTS
    if small or ws.read_only or backbone.device.type != "cpu" or not (budget := _budget(ws)):
        return None
    key = store_key(run.config["fingerprint"], backbone.dtype, backbone.info.quantised)
    return PrefixStore(ws.root / ITEM_CACHE, key, budget)


def item_cache_cost(backbone: FrozenBackbone) -> dict[str, Any]:
    """Return cost entries of a run about items that were read from disk since the last `forget`.

    items_from_disk: their number; item_seconds_from_disk: the seconds of their computation, which
    the seconds of the run do not include.
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
