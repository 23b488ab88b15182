"""The chain of digests: written and checked."""
