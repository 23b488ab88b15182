"""KFP wiring of the steps: the pipeline, its configuration, the local runner and the ``deepsynth`` command line."""

import components  # noqa: F401 - sets OpenMP's wait policy before a numeric library loads
