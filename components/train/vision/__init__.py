"""The frozen vision encoder, and the store of its features."""
