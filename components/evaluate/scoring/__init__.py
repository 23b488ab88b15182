"""Predictions turned into figures."""
