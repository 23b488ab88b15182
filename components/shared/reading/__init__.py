"""Reading pages with a loaded model."""
