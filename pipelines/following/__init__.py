"""A run on a cluster while it works: its steps, what they wait for, why they failed, and their logs."""
