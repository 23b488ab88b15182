"""What a page may look like, as settings: sizes by name, and how much it may look like a scan."""
