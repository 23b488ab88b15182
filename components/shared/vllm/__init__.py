"""What export and the service share about vLLM: which adapters its classes read, under which names, and its server."""
