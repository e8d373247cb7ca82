"""Frozen language models that read soft prompts."""

from puma_engine.backbone.compatibility import inspect_backbone
from puma_engine.backbone.loading import BackboneInfo
from puma_engine.backbone.model import FrozenBackbone
from puma_engine.backbone.reader import Context, Reader

__all__ = ["BackboneInfo", "Context", "FrozenBackbone", "Reader", "inspect_backbone"]
