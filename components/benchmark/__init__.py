"""The benchmark step: compares the trainers on the same data, each in its own process."""
