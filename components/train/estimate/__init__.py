"""Memory of a training, predicted without weights."""
