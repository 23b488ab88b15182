"""What prepare writes: encoded pages, the spool they wait in, the shards, the manifest and the preview."""
