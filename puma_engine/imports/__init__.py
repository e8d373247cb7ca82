"""Prompts that were fitted elsewhere, in the forms in which they come."""

from puma_engine.imports.reading import content_hash, read_prompts
from puma_engine.imports.table import PromptFile

__all__ = ["PromptFile", "content_hash", "read_prompts"]
