"""Measurements of a trained model for the benchmark step."""
