"""A step as a program: configuration, flags, exit codes."""
