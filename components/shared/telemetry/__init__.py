"""What a running process reports: logs, progress, spans, and its termination message."""
