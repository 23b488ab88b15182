"""The configuration of the whole pipeline."""
