"""The packaged command line: ``python inference.py page.png``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .letters import LetterHeight
from .loading import check_base_is_known
from .opening_process import OpeningProcess
from .pictures import PagePicture, listed
from .reader import PageReader, Reading, read_settings
from .refusal import RefusalError
from .unused_packages import leave_out_unused_packages

EXIT_CODE_REFUSAL = 2


def main(package: Path, letter_height: LetterHeight) -> int:
    """Transcribe the pages that the command line names; return the exit code. Warnings go to standard error."""
    settings = read_settings(package)
    arguments = parse_arguments(settings)
    settings |= {"prompt": arguments.prompt, "max_new_tokens": arguments.max_new_tokens}
    try:
        files = listed(arguments.pages)
        if settings["trust_remote_code"] and not arguments.trust_remote_code:
            raise RefusalError("this model brings its own Python code; read it, then add --trust_remote_code")
        check_base_is_known(package, settings, arguments.base_model)
        leave_out_unused_packages(package, settings, arguments.base_model)
        base, device = arguments.base_model, arguments.device
        with OpeningProcess() as opened:  # before PyTorch is imported
            reader = PageReader(package, settings, letter_height, base_model=base, device=device)
            with_head = len(files) > 1 or files[0].suffix.lower() == ".pdf"
            for page in (page for file in files for page in opened.pages(file)):
                reading = reader.read(page.image)
                if reading.warning:
                    print(f"warning: {page.file} page {page.number}: {reading.warning}", file=sys.stderr)
                print(json_line(page, reading) if arguments.jsonl else plain(page, reading, with_head), flush=True)
    except RefusalError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return EXIT_CODE_REFUSAL
    return 0


def parse_arguments(settings: dict[str, Any]) -> argparse.Namespace:
    """Return the command line's options; the defaults are those of the evaluation."""
    parser = argparse.ArgumentParser(prog="inference.py", description="Transcribe pages.")
    parser.add_argument("pages", nargs="+", help="pictures, PDFs (with pypdfium2), or folders of them")
    parser.add_argument(
        "--jsonl", "--json", action="store_true", help="print a JSON line for each page: file, page, text, warning"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--max_new_tokens", type=int, default=settings["max_new_tokens"])
    parser.add_argument(
        "--prompt", default=settings["prompt"], help="the whole text before the answer, including the image token"
    )
    parser.add_argument("--base_model", default=None, help="folder or hub id of the base, if it is not in this package")
    parser.add_argument("--trust_remote_code", action="store_true", help="allow the model to run its own Python code")
    return parser.parse_args()


def json_line(page: PagePicture, reading: Reading) -> str:
    """Return a page's text as one line of JSON."""
    content = {"file": str(page.file), "page": page.number, "text": reading.text, "warning": reading.warning}
    return _in_utf8(json.dumps(content, ensure_ascii=False))


def plain(page: PagePicture, reading: Reading, with_head: bool) -> str:
    """Return a page's text, below its file's name where there are several pages."""
    return _in_utf8(f"--- {page.file} page {page.number}\n{reading.text}") if with_head else reading.text


def _in_utf8(text: str) -> str:
    """Return ``text`` with escapes, which are JSON's too, for what of a file's name is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
