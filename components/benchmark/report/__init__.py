"""What the contenders' figures say: comparison, ratios, plots, page, MLflow runs."""
