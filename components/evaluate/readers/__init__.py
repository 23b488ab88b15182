"""Who reads the pages."""
