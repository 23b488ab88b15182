"""Reads documents from every kind of source; ``opening`` picks the reader."""
