"""The benchmark step: the trainers compared on the same data, each in a process of its own."""
