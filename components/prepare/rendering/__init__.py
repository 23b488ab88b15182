"""Turns a document into pages: layout, look, augmentation, and existing page pictures."""
