"""MLflow: runs, parents, the registry."""
