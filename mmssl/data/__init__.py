"""Shards in, batches out: reading, writing, splitting, resuming."""
