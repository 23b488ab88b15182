"""Files that one step leaves and another reads."""
