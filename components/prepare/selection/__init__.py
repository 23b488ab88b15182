"""Decides which documents are kept, and on which side of the split."""
