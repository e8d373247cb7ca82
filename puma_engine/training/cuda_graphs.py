"""CUDA graphs by shape, since small kernels take longer to launch than to run."""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from puma_engine.training.device import gc_paused


class GraphCache:
    """Captured CUDA graphs by key; a key is captured when it occurs for the second time.

    After `limit` graphs or a failed capture, nothing more is captured; `failure` says why. Graphs
    share one memory pool.
    """

    def __init__(self, device: torch.device, limit: int) -> None:
        self.device, self.limit = device, limit
        self.enabled = device.type == "cuda"
        self.failure: str | None = None
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, Any] = {}
        self._pool: Any = None

    def get(self, key: Hashable, capture: Callable[[Any], Any]) -> Any | None:
        """Return what capture(pool) returned for this key, or None to run without a graph."""
        if key in self._graphs:
            return self._graphs[key]
        if not self.enabled or len(self._graphs) >= self.limit:
            return None
        if key not in self._seen:
            self._seen.add(key)
            return None
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.device(self.device), gc_paused():
                self._graphs[key] = capture(self._pool)
        except RuntimeError as error:
            # Some architectures read values on the host, which is impossible during a capture.
            self.enabled, self.failure = False, str(error)
            torch.cuda.synchronize(self.device)
            return None
        return self._graphs[key]
