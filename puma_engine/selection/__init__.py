"""Selection of the users who train the adapter: signals, clusters and strata, quotas and a seeded draw."""
