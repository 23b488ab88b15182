"""MLflow: the runs of steps and pipelines, and the model registry."""
