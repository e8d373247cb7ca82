"""Adapters that map soft prompts from one or several backbones to another."""
