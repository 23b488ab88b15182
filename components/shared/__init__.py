"""What two or more steps need; this package imports no step."""
