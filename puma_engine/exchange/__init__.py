"""Prompts and adapters in and out, in the forms that other programs read."""
