"""Model families, where models are stored, and how they are loaded."""
