"""``deepsynth read``: the text of pictures, folders and PDFs, with a model here or a service elsewhere."""

import json
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from components.shared.errors import UserError, printable
from components.shared.telemetry.logs import configure_logs
from components.shared.telemetry.progress import ProgressReport

if TYPE_CHECKING:
    from PIL import Image

    from components.serve.adapters.sources import ModelFiles


@dataclass(frozen=True)
class _Page:
    """A page's place, its reading as ``/v1/ocr`` returns it, and its picture; None if a service read it."""

    file: Path
    number: int
    reading: dict[str, Any]
    picture: "Image.Image | None"


def read(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Pictures, TIFFs with several pages, PDFs, or folders.")
    ],
    model: Annotated[
        str,
        typer.Option(
            help="What reads: runs/ID, an adapter's or package's folder or zip, models:/NAME@champion, a base's folder "
            "or hub id, or the address of a service (its token is read from DEEPSYNTH_SERVE_TOKEN)."
        ),
    ] = "tiny-base",
    base_model: Annotated[
        str | None, typer.Option(help="The adapter's base, if it is not where the adapter's files say.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line for each page: text, confidence, lines, flags.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown document.")] = False,
    searchable_pdf: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write each file as a PDF with its text behind the pictures.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer of a page in tokens.")] = 512,
) -> None:
    """Read pictures, folders and PDFs, and print their text.

    Text goes to standard output; progress and warnings go to standard error. A page that reached its longest length or
    ends in a repetition is named there.

    **Examples**

    - `deepsynth read page.png scans/ --model runs/20261129-101500 --json`

    - `deepsynth read report.pdf --model models:/page-reader@champion --searchable-pdf readable`
    """
    configure_logs()
    if as_json and as_markdown:
        raise UserError("give one of them", where="--json --markdown")
    remote = model.startswith(("http://", "https://"))
    if searchable_pdf is not None and remote:
        raise UserError("needs the pictures here", where="--searchable-pdf", mend="name a model instead of a service")
    found = _listed(files)
    pages = _remote(found, model) if remote else _local(found, model, base_model, max_new_tokens)
    written: dict[Path, list[_Page]] = {}
    with ProgressReport("read", total=len(found)) as progress:
        for page in pages:
            if page.number == 1:
                progress.advance()
            _print(page, as_json, as_markdown, with_head=len(found) > 1 or page.number > 1)
            if searchable_pdf is not None:
                written.setdefault(page.file, []).append(page)
    if searchable_pdf is not None:
        _write_pdfs(written, searchable_pdf)


def _listed(names: list[Path]) -> list[Path]:
    from components.serve.documents.opening import SUFFIXES

    files: list[Path] = []
    for name in names:
        if not name.exists():
            raise UserError("no such file", where=str(name))
        inside = sorted(file for file in name.iterdir() if file.suffix.lower() in SUFFIXES) if name.is_dir() else [name]
        if not inside:
            raise UserError("no pictures or PDFs in it", where=str(name), mend=f"known are {', '.join(SUFFIXES)}")
        files += inside
    return files


def _remote(files: list[Path], url: str) -> Iterator[_Page]:
    from components.serve.offline.remote_reader import read_remotely

    for file in files:
        for page in read_remotely(url, file, None):
            yield _Page(file, page["page"], page, None)


def _local(files: list[Path], model: str, base_model: str | None, max_new_tokens: int) -> Iterator[_Page]:
    from components.serve.adapters.sources import fetched
    from components.serve.engines.quick_start import leave_out_unused
    from components.shared.artifacts.output_folder import scratch_folder
    from pipelines.local.runs_folder import resolved_run

    with ExitStack() as stack:
        source = fetched(resolved_run(model) or model, stack.enter_context(scratch_folder("deepsynth-read")))
        config = _config(source, base_model, max_new_tokens)
        leave_out_unused(config)
        from components.serve.http.ocr import reading_as_json
        from components.serve.offline.local_reader import LocalReader

        reader = stack.enter_context(LocalReader(source, config))
        places: list[tuple[Path, int, Image.Image]] = []

        def opened() -> Iterator["Image.Image"]:
            for place in stack.enter_context(closing(_opened(files))):
                places.append(place)
                yield place[2]

        for reading in reader.read(opened()):
            file, number, picture = places.pop(0)
            yield _Page(file, number, {"model": reading.model, **reading_as_json(reading)}, picture)


def _opened(files: list[Path]) -> Generator[tuple[Path, int, "Image.Image"], None, None]:
    """Yield the pages of all files; they are opened in a child process with limits, a few files ahead."""
    from components.serve.config import ServeConfig
    from components.serve.documents.opening import DocumentError, PageFile
    from components.serve.documents.page_opener import OPENING_MODULES, opened_files
    from components.shared.foreign_files.foreign_reader import ForeignReader
    from components.shared.foreign_files.limits import ReadingLimits

    limit = ServeConfig.model_fields["max_pixels_per_page"].default
    with ForeignReader(ReadingLimits(), preload=OPENING_MODULES) as reader:
        for file, pages in opened_files(reader, [PageFile(file, limit) for file in files]):
            try:
                for number, picture in enumerate(pages, start=1):
                    yield cast(Path, file.content), number, picture
            except DocumentError as error:
                raise UserError(error.message, where=str(file.content)) from error


def _config(source: "ModelFiles", base_model: str | None, max_new_tokens: int) -> Any:
    from components.serve.adapters.sources import with_base
    from components.serve.config import ServeConfig
    from components.shared.programs.step_config import validated

    values = {"model": source.name, "base_model": base_model, "max_new_tokens": max_new_tokens}
    return with_base(validated(ServeConfig, values, "read"), source)


def _print(page: _Page, as_json: bool, as_markdown: bool, with_head: bool) -> None:
    reading = page.reading
    for mark, said in (("truncated", "reached its longest length"), ("loop", "ends in a repetition")):
        if reading[mark]:
            typer.echo(f"warning: {printable(str(page.file))} page {page.number} {said}", err=True)
    if as_json:
        typer.echo(json.dumps({**reading, "file": str(page.file), "page": page.number}, ensure_ascii=False))
    elif as_markdown:
        typer.echo(f"<!-- {printable(page.file.name)}, page {page.number} -->\n\n{reading['text']}\n")
    else:
        head = f"--- {printable(str(page.file))} page {page.number}\n" if with_head else ""
        typer.echo(head + printable(reading["text"], keep="\n\t"))


def _write_pdfs(written: dict[Path, list[_Page]], folder: Path) -> None:
    from components.serve.offline.searchable_pdf import write_searchable_pdf

    folder.mkdir(parents=True, exist_ok=True)
    for file, pages in written.items():
        pictures = [(page.picture, page.reading["text"]) for page in pages if page.picture is not None]
        target = folder / f"{file.stem}.pdf"
        write_searchable_pdf(pictures, target)
        typer.echo(f"written: {target}", err=True)
