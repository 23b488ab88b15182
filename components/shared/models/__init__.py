"""Which model, where it is, and how it is loaded."""
