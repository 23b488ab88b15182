"""How the bundled tiny base was made: its texts, its fonts and the commands."""
