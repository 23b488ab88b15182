"""What a running process says: logs, progress, spans, last words."""
