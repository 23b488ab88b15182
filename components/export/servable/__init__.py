"""What vLLM serves: the adapter and the merged model under the names that its classes read."""
