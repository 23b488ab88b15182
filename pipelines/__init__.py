"""KFP wiring of the steps: the pipeline, its configuration, the local runner and the ``deepsynth`` command line."""
