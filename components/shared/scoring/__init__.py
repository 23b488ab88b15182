"""Texts compared: normalisation, edits, intervals, tests."""
