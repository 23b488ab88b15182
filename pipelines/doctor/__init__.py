"""Checks of a cluster before the first run, each with what to do about a fault."""
