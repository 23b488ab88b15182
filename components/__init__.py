"""The steps of DeepSynth Pipelines: one package per step, none of which knows Kubeflow."""
