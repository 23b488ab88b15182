"""Finished runs side by side: read from folders or from MLflow, compared, and shown as tables and as a page."""
