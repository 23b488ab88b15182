"""How one contender is measured: its training process, its probes, and the full-size model for measurements."""
