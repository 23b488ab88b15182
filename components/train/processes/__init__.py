"""Starts one process per GPU, lets the processes agree, and ends them on SIGTERM."""
