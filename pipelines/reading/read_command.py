"""``deepsynth read``: the text of pictures, folders and PDFs, with a model here or a service elsewhere."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.serve.offline.file_pages import FileEnd, FilePage
from components.shared.errors import UserError, printable
from components.shared.telemetry.logs import configure_logs
from components.shared.telemetry.progress import ProgressReport

if TYPE_CHECKING:
    from components.serve.adapters.sources import ModelFiles
    from components.serve.offline.searchable_pdf import SearchablePdfs

_NAMED = 10  # files that the last line names; each has a line of its own before


Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Pictures, TIFFs with several pages, PDFs, or folders.")
]
Model = Annotated[
    str,
    typer.Option(
        help="What reads: runs/ID, an adapter's or package's folder or zip, models:/NAME@champion, a base's folder "
        "or hub id, or the address of a service (its token is read from DEEPSYNTH_SERVE_TOKEN)."
    ),
]
SearchablePdf = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write each file as a PDF with its text, invisible, behind the pages. None that is there is replaced.",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="The longest answer of a page in tokens. Default: the package's or 512; a service's own."),
]
ServedModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which version of the service reads: a name, or an alias such as @challenger. Default: the service's own.",
    ),
]


def read(
    files: Files,
    model: Model = "tiny-base",
    base_model: Annotated[
        str | None, typer.Option(help="The adapter's base, if it is not where the adapter's files say.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line for each page: text, confidence, lines, flags.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown document.")] = False,
    searchable_pdf: SearchablePdf = None,
    max_new_tokens: MaxNewTokens = None,
    served_model: ServedModel = None,
) -> None:
    """Read pictures, folders and PDFs, and print their text.

    Text goes to standard output; progress and warnings go to standard error. A page that reached its longest length or
    ends in a repetition is named there. So is a file that cannot be read: the others are read, and the exit code is 2.

    **Examples**

    - `deepsynth read page.png scans/ --model runs/20261129-101500 --json`

    - `deepsynth read report.pdf --model models:/page-reader@champion --searchable-pdf readable`

    - `deepsynth read scans/ --model http://127.0.0.1:8000 --served-model @challenger`
    """
    configure_logs()
    if as_json and as_markdown:
        raise UserError("give one of them", where="--json --markdown")
    remote = model.startswith(("http://", "https://"))
    if remote and base_model is not None:
        raise UserError("a service has its own base", where="--base-model", mend="leave it out")
    if not remote and served_model is not None:
        raise UserError("is for a service", where="--served-model", mend="name the version as --model")
    found = _listed(files)
    with ExitStack() as stack:
        pdfs = stack.enter_context(_pdfs(found, searchable_pdf)) if searchable_pdf is not None else None
        if remote:
            events = _remote(found, model, served_model, max_new_tokens)
        else:
            events = _local(found, model, base_model, max_new_tokens)
        not_read = _print_all(events, len(found), as_json, as_markdown, pdfs)
    if not_read:
        raise _all_of(not_read, len(found))


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


def _pdfs(files: list[Path], folder: Path) -> "SearchablePdfs":
    from components.serve.offline.searchable_pdf import SearchablePdfs

    return SearchablePdfs(files, folder)


def _remote(
    files: list[Path], url: str, served_model: str | None, max_new_tokens: int | None
) -> Iterator[FilePage | FileEnd]:
    from components.serve.offline.remote_reader import read_remotely

    wishes = {"model": served_model, "max_new_tokens": max_new_tokens}
    return read_remotely(url, files, {name: str(value) for name, value in wishes.items() if value is not None})


def _local(
    files: list[Path], model: str, base_model: str | None, max_new_tokens: int | None
) -> Iterator[FilePage | FileEnd]:
    from components.serve.adapters.sources import fetched
    from components.serve.engines.quick_start import leave_out_unused
    from components.shared.artifacts.output_folder import scratch_folder
    from pipelines.local.runs_folder import resolved_run

    with scratch_folder("deepsynth-read") as scratch:
        source = fetched(resolved_run(model) or model, scratch)
        config = _config(source, base_model, max_new_tokens)
        leave_out_unused(config)
        from components.serve.offline.local_files import read_locally
        from components.serve.offline.local_reader import LocalReader

        with LocalReader(source, config) as reader, closing(read_locally(reader, files)) as events:
            yield from events


def _config(source: "ModelFiles", base_model: str | None, max_new_tokens: int | None) -> Any:
    from components.serve.adapters.sources import with_base
    from components.serve.config import ServeConfig
    from components.shared.programs.step_config import validated

    values: dict[str, Any] = {"model": source.name, "base_model": base_model}
    if max_new_tokens is not None:
        values["max_new_tokens"] = max_new_tokens
    return with_base(validated(ServeConfig, values, "read"), source)


def _print_all(
    events: Iterable[FilePage | FileEnd], files: int, as_json: bool, as_markdown: bool, pdfs: "SearchablePdfs | None"
) -> list[UserError]:
    """Print the pages, write each file's PDF at its end, and return what was wrong with files that failed."""
    not_read: list[UserError] = []
    texts: list[str] = []
    ended = 0
    with ProgressReport("read pages", total=None) as progress:
        for event in events:
            if isinstance(event, FilePage):
                _print(event, as_json, as_markdown, with_head=files > 1 or event.number > 1)
                texts.append(event.reading["text"])
                progress.advance(note=f"file {ended + 1} of {files}")
                continue
            ended += 1
            problem = event.problem
            if pdfs is not None and problem is None:
                try:
                    typer.echo(f"written: {pdfs.write(event.file, texts)}", err=True)
                except UserError as error:
                    problem = error
            if problem is not None:
                not_read.append(problem)
                if files > 1:
                    typer.echo(f"error: {problem}", err=True)
            texts.clear()
    return not_read


def _all_of(not_read: list[UserError], files: int) -> UserError:
    if files == 1:
        return not_read[0]
    names = ", ".join(str(problem.where) for problem in not_read[:_NAMED])
    more = f" and {len(not_read) - _NAMED} more" if len(not_read) > _NAMED else ""
    return UserError(f"{len(not_read)} of {files} files failed: {names}{more}", mend="the lines above say why")


def _print(page: FilePage, as_json: bool, as_markdown: bool, with_head: bool) -> None:
    reading = page.reading
    for mark, said in (("truncated", "reached its longest length"), ("loop", "ends in a repetition")):
        if reading[mark]:
            typer.echo(f"warning: {printable(str(page.file))} page {page.number} {said}", err=True)
    if as_json:
        line = json.dumps({**reading, "file": str(page.file), "page": page.number}, ensure_ascii=False)
        # What of a file's name is not UTF-8 is a lone surrogate in Python, and an escape in JSON.
        typer.echo(line.encode("utf-8", "backslashreplace").decode("utf-8"))
    elif as_markdown:
        typer.echo(f"<!-- {printable(page.file.name)}, page {page.number} -->\n\n{reading['text']}\n")
    else:
        head = f"--- {printable(str(page.file))} page {page.number}\n" if with_head else ""
        typer.echo(head + printable(reading["text"], keep="\n\t"))
