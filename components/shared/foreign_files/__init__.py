"""Foreign files, opened in a child process with limits of time, memory and messages."""
