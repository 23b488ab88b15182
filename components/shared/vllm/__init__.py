"""What export's proof and the service share about vLLM: starting its server, and ending all of it."""
