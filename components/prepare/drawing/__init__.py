"""Selected documents drawn by worker processes, and the record of what became of each."""
