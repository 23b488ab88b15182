"""A finished package in a registry or on the hub."""
