"""Import and export of prompts and adapters, in formats of other programs."""
