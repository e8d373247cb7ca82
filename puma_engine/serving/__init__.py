"""An adapter at work: migrating prompts on demand over HTTP, and in bulk over shards."""
