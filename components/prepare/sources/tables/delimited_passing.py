"""Passes rows of a CSV file without keeping them: it finds their ends as ``csv.reader(strict=True)`` does."""

import re
from enum import Enum
from typing import TextIO

from components.prepare.documents.table_rows import ROWS_OF_A_PART
from components.shared.foreign_files.reading_child import part_read

_PIECE = 2**20
_LINE_ENDS = ("\n", "\r")
_QUOTES_IN_QUOTED = re.compile('(?:""[^"]*+)++')
"""Quotes that are part of a field, and what is between them. Possessive, so that a long field takes no memory."""


class _In(Enum):
    """What the end of a piece is in."""

    FIELD_START = "field start"
    PLAIN = "plain"
    QUOTED = "quoted"
    QUOTE_IN_QUOTED = "quote in quoted"
    """The field ends here, unless the next character is a quote too."""


class RowPasser:
    """Passes rows of a stream that was opened with ``newline=""`` and stands at the start of a row."""

    def __init__(self, stream: TextIO, delimiter: str) -> None:
        self._stream = stream
        self._next_quoted = delimiter + '"'
        self._delimiter = delimiter

    def pass_rows(self, count: int) -> None:
        """Pass ``count`` rows; blank ones count."""
        for number in range(count):
            if self._pass_row() is None:
                return
            if number % ROWS_OF_A_PART == 0:
                part_read()

    def pass_next_that_is_not_blank(self) -> int:
        """Pass blank rows and the one behind them; return how many these are."""
        passed = 1
        while self._pass_row():
            passed += 1
        return passed

    def _pass_row(self) -> bool | None:
        """Pass a row; return whether it is blank, None at the end of the file."""
        state, first = _In.FIELD_START, True
        while piece := self._piece():
            if first and piece.strip("\r\n") == "":
                return True
            first = False
            state = self._behind(piece, state)
            if piece.endswith(_LINE_ENDS) and state is not _In.QUOTED:
                return False
        return None if first else False

    def _piece(self) -> str:
        """Return a part of a line; its end is not torn apart."""
        piece = self._stream.readline(_PIECE)
        if len(piece) == _PIECE and piece.endswith("\r"):
            place = self._stream.tell()
            if self._stream.read(1) == "\n":
                return piece + "\n"
            self._stream.seek(place)
        return piece

    def _behind(self, piece: str, state: _In) -> _In:
        """Return what the end of ``piece`` is in."""
        place = 0
        if state is _In.QUOTE_IN_QUOTED:
            state, place = (_In.QUOTED, 1) if piece.startswith('"') else (_In.PLAIN, 0)
        if state is _In.FIELD_START and piece.startswith('"'):
            state, place = _In.QUOTED, 1
        while True:
            if state is _In.QUOTED:
                place = piece.find('"', place)
                if place < 0:
                    return _In.QUOTED
                matched = _QUOTES_IN_QUOTED.match(piece, place)
                if matched:
                    place = matched.end()
                    if place == len(piece):
                        return _In.QUOTED
                    continue
                place += 1
                if place == len(piece):
                    return _In.QUOTE_IN_QUOTED
            place = piece.find(self._next_quoted, place) + 2
            if place < 2:
                return _In.FIELD_START if piece.endswith(self._delimiter) else _In.PLAIN
            state = _In.QUOTED
