"""Shards, manifest and preview from the drawn pages."""
