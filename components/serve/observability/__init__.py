"""What the service tells about itself: metrics and one log line per request, without a request's content."""
