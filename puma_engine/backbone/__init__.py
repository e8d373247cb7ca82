"""Frozen language models that read soft prompts.

The names below are loaded on first use, so that importing `backbone.templates` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puma_engine.backbone.compatibility import inspect_backbone
    from puma_engine.backbone.converting import convert_model
    from puma_engine.backbone.loading import BackboneInfo
    from puma_engine.backbone.model import FrozenBackbone
    from puma_engine.backbone.reader import Context, Reader

__all__ = [
    "BackboneInfo",
    "Context",
    "FrozenBackbone",
    "Reader",
    "convert_model",
    "inspect_backbone",
]
_MODULES = {
    "BackboneInfo": "loading",
    "Context": "reader",
    "FrozenBackbone": "model",
    "Reader": "reader",
    "convert_model": "converting",
    "inspect_backbone": "compatibility",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
