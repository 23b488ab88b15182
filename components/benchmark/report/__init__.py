"""The results of all contenders: comparison, ratios, plots, page, MLflow runs."""
