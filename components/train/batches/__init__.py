"""Turns pages into batches of tensors."""
