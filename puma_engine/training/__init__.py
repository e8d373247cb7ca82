"""The training loop of prompts, adapters and zoo models."""
