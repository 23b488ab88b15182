"""Predictions scored: metrics, intervals, comparisons and breakdowns."""
