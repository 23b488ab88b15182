"""Pages as batches of tensors."""
