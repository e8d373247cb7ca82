"""The workspace: every run with its settings, costs, metrics, files and lineage."""

from puma_engine.store.records import KINDS, STATUSES, Run
from puma_engine.store.workspace import Workspace

__all__ = ["KINDS", "STATUSES", "Run", "Workspace"]
