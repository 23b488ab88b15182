"""Which documents are kept, and on which side of the split each one stands."""
