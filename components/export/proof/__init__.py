"""Shows that vLLM reads a package's pages as this project does: a server is asked, and the readings compared."""
