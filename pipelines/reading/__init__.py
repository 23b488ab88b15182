"""Reading pages with a model: `deepsynth read` and `deepsynth serve`."""
