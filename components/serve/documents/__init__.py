"""The pages in a file that a client sends or a user names."""
