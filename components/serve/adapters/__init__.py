"""Which version of the model reads a request: names, aliases, and versions that are loaded and unloaded."""
