"""The lines that a vLLM server prints, as lines of this service's log, without what stands on pages.

vLLM logs neither prompts nor answers unless an argument tells it to, and ``command.py`` refuses those arguments. A
traceback's last line can quote anything, though. So once the server reads pages, of lines that are not vLLM's own at
INFO or WARNING only places in the code and the kind of an error are kept.
"""

import logging
import re

logger = logging.getLogger(__name__)

_OWN = re.compile(
    r"(?:\([^()]*? pid=\d+\) )?(?P<level>[A-Z]+) \d\d-\d\d \d\d:\d\d:\d\d \[(?P<place>[\w./-]+:\d+)\] ?(?P<said>.*)"
)
_PROCESS = re.compile(r"^\([^()]*? pid=\d+\) ")
_FRAME = re.compile(r'\s*File "[^"]*", line \d+, in [\w<>.]+')
_ERROR = re.compile(r"\s*(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))(?::|$)")
_LEVELS = {"DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARNING": logging.WARNING}


class LogLines:
    """Passes lines on; ``reads_pages`` says that from now on a line could hold a page's text."""

    def __init__(self) -> None:
        self.reads_pages = False
        self.last_error = ""
        """the last line that names an error, for the message about the server's end"""

    def pass_on(self, line: str) -> None:
        """Log one line, or what is kept of it."""
        level, said = self._kept(line.rstrip())
        if not said:
            return
        if level >= logging.ERROR and _ERROR.match(said.partition("] ")[2] or said):
            self.last_error = said
        logger.log(level, "vllm: %s", said)

    def _kept(self, line: str) -> tuple[int, str]:
        """Return the level and the text; an empty text for a line that is kept back."""
        own = _OWN.fullmatch(line)
        if own is None:
            rest = _PROCESS.sub("", line)
            if not self.reads_pages:
                return (logging.ERROR if _ERROR.match(rest) else logging.INFO), rest
            return logging.ERROR, _place_or_kind(rest)
        place, said, level = own["place"], own["said"], _LEVELS.get(own["level"], logging.ERROR)
        if self.reads_pages and level >= logging.ERROR:
            said = _place_or_kind(said)
        return level, f"[{place}] {said}"


def _place_or_kind(text: str) -> str:
    """Return a traceback's line without the source and the message in it; empty for every other line."""
    if frame := _FRAME.fullmatch(text):
        return frame[0].strip()
    if error := _ERROR.match(text):
        return error["kind"]
    return ""
