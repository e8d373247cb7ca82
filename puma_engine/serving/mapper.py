"""An adapter that is loaded once and maps prompts."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from puma_engine.backbone.hub import refuse_revision
from puma_engine.errors import MigrationError
from puma_engine.exchange.adapter_folders import AdapterFile, read_adapter
from puma_engine.migration.adapter import apply_adapter
from puma_engine.store import Workspace
from puma_engine.training.device import resolve_device


class Mapper:
    """Maps prompts [n, l, d_in] to [n, l, d_out] float32; `identity` changes with the weights."""

    def __init__(self, adapter: AdapterFile, device: str | None = None) -> None:
        self.adapter = adapter
        self.network = adapter.network().to(resolve_device(device))
        self.config, self.head = adapter.config, adapter.head
        self.d_in, self.d_out = self.network.d_in, self.network.d_out
        digest = hashlib.sha256()
        for name in sorted(adapter.tensors):
            digest.update(name.encode() + np.ascontiguousarray(adapter.tensors[name]).tobytes())
        self.identity = digest.hexdigest()[:16]

    def check(self, vectors: np.ndarray) -> np.ndarray:
        """Return prompts as [n, l, d_in] float32. Raises MigrationError for unsuitable ones."""
        if vectors.dtype.kind != "f" or vectors.ndim not in (2, 3):
            raise MigrationError(
                f"Prompts came as {vectors.dtype} of shape {vectors.shape}; they must be floats of "
                "shape [users, width] or [users, tokens, width]."
            )
        if vectors.shape[-1] != self.d_in:
            raise MigrationError(
                f"Prompts of width {vectors.shape[-1]} came, but this adapter reads {self.d_in}."
            )
        # A float64 beyond float32 becomes infinite, which is refused below.
        with np.errstate(over="ignore"):
            float32 = vectors.astype(np.float32, copy=False)
        if not np.isfinite(float32).all():
            raise MigrationError("Prompts hold NaN or infinite values; send finite ones.")
        return float32 if float32.ndim == 3 else float32[:, None]

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        if not len(vectors):
            return np.empty((0, vectors.shape[1], self.d_out), np.float32)
        return apply_adapter(self.network, vectors)


def adapter_of(ws: Workspace | None, spec: str, revision: str | None = None) -> AdapterFile:
    """Return the adapter of a folder, a migration run of a workspace, or the hub.

    Raises what `read_adapter` raises; NotFoundError; BackboneError for a revision of a run.
    """
    if ws is not None and not Path(spec).expanduser().is_dir() and "/" not in spec:
        from puma_engine.pipeline import find, load_adapter, load_prompts
        from puma_engine.pipeline.stored_prompts import template_of

        refuse_revision(spec, revision)
        run = find(ws, spec, "migration")
        tensors, meta = load_adapter(ws, run)
        config: dict[str, Any] = meta | template_of(run).to_config() | {"run": run.id}
        return AdapterFile(tensors, config, load_prompts(ws, run).head)
    return read_adapter(spec, revision)
