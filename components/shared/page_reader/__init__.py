"""Reads pages with a package's model. Export packs this folder, so it imports nothing else of this project."""
