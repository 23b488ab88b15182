"""Prepare's output: encoded pages, the page spool, the shards and the preview."""
