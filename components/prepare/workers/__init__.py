"""Processes that share the work, and what each of them sets up."""
