"""Serving an adapter: migrate prompts on demand over HTTP, and in bulk over shards."""
