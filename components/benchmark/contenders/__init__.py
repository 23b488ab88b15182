"""One contender measured: its training process and its probes, and the full-size model to measure with."""
