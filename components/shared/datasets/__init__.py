"""Reading shards: where samples lie, and their decoded pages."""
