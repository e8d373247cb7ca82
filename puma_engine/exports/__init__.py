"""Prompts, adapters, tables and reports in the forms that other programs and people read."""
