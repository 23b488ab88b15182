"""One process per GPU, and its orderly end."""
