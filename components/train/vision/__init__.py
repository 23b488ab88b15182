"""The frozen vision encoder and its kept features."""
