"""What programs print: tables of a known width, without control characters from foreign text."""

from typing import Any

from rich.console import Console

from components.shared.errors import printable as printable  # the other half of this subject, which errors need too

_WIDTH_WITHOUT_A_TERMINAL = 100


def output_console(width: int = _WIDTH_WITHOUT_A_TERMINAL, **options: Any) -> Console:
    """Return a console on standard output: as wide as the terminal, or ``width`` characters in a file or pipe."""
    console = Console(**options)
    return console if console.is_terminal else Console(width=width, **options)
