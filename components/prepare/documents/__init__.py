"""What every source yields: documents, and markers of what could not be read."""
