"""``deepsynth samples``: what a service has kept of the pages that it read."""

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from components.shared.errors import UserError, printable

if TYPE_CHECKING:
    from components.serve.samples.store import SampleStore

samples = typer.Typer(no_args_is_help=True, help="List, correct, compare and delete the pages that a service has kept.")

Config = Annotated[Path, typer.Option(help="The service's settings, a YAML or JSON file with the section samples.")]


class _Opened(NamedTuple):
    store: "SampleStore"
    retention_days: float
    who: str


@samples.command("list")
def list_samples(config: Config) -> None:
    """List the stored readings, oldest first: request, page, time, role and the picture's SHA-256; no text."""
    with _opened(config) as opened:
        for key in opened.store.listed(opened.who):
            time = key.stored_at.isoformat(timespec="seconds")
            typer.echo(f"{key.request_id}  page {key.page}  {time}  {key.role}  {key.picture[:12]}")


@samples.command()
def delete(
    request_ids: Annotated[list[str], typer.Argument(metavar="REQUEST_ID...", help="X-Request-ID of the requests.")],
    config: Config,
) -> None:
    """Delete what is stored of requests: their readings, and the pictures that no other request shares."""
    with _opened(config) as opened:
        for request_id in request_ids:
            removed = opened.store.delete(request_id, opened.who)
            typer.echo(f"{printable(request_id)}: {removed} readings deleted")


@samples.command()
def expire(config: Config) -> None:
    """Delete what is older than the service's retention_days. The service does it by itself while it runs."""
    with _opened(config) as opened:
        removed = opened.store.expire(opened.retention_days, opened.who)
        typer.echo(f"{removed} readings older than {opened.retention_days:g} days deleted")


@samples.command()
def correct(
    folder: Annotated[Path, typer.Argument(help="A folder to create.")],
    config: Config,
) -> None:
    """Write pages and readings to a folder, to be corrected and then trained on.

    Correct `NAME.draft.txt` and rename it to `NAME.gt.txt`. `prepare` reads the folder as `images:FOLDER`; pages whose
    draft was not renamed are left out. The folder is a copy: deletion and retention do not reach it.
    """
    from components.serve.samples.corrections import write_drafts

    with _opened(config) as opened:
        pages = write_drafts(opened.store, opened.store.listed(opened.who), folder, opened.who)
        typer.echo(f"{pages} pages written to {folder}")


@samples.command()
def compare(
    config: Config,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per pair of versions.")] = False,
) -> None:
    """Compare the readings of champion and challenger on the pages that both have read.

    The CER is between the two readings: it says how far they differ, not which is right. A positive difference of the
    confidence means that the challenger is more certain.
    """
    from components.serve.samples.agreement import agreements, pairs_in

    with _opened(config) as opened:
        pairs, single = pairs_in(opened.store, opened.who)
    if not pairs:
        typer.echo(f"no page has both readings; {single} have one", err=True)
    for found in agreements(pairs):
        if as_json:
            typer.echo(json.dumps(asdict(found)))
            continue
        typer.echo(f"champion {found.champion}, challenger {found.challenger}")
        typer.echo(f"  pages with both readings      {found.pages} of {found.requests} requests")
        typer.echo(f"  equal texts                   {found.equal_pages} ({found.equal_pages / found.pages:.1%})")
        typer.echo(f"  CER between the readings      {_figure(found.cer, found.cer_interval)}")
        difference = _figure(found.mean_logprob_difference, found.mean_logprob_difference_interval, signed=True)
        typer.echo(f"  mean log-probability          {difference} (challenger - champion)")
        typer.echo(f"  truncated                     {found.truncated[0]} and {found.truncated[1]}")
        typer.echo(f"  loops                         {found.loops[0]} and {found.loops[1]}")
    if pairs and single and not as_json:
        typer.echo(f"{single} more pages have one reading only")


def _figure(value: float | None, interval: tuple[float, float] | None, signed: bool = False) -> str:
    if value is None:
        return "none: the champion read no text"
    sign = "+" if signed else ""
    bounds = f" (95 % interval {interval[0]:{sign}.4f} to {interval[1]:{sign}.4f})" if interval else ""
    return f"{value:{sign}.4f}{bounds}"


@contextmanager
def _opened(config: Path) -> Iterator[_Opened]:
    from components.serve.config import ServeConfig
    from components.serve.samples.audit import Audit
    from components.serve.samples.objects import objects_at
    from components.serve.samples.store import SampleStore
    from components.shared.programs.step_config import read_config_file, validated

    settings = validated(ServeConfig, read_config_file(config), str(config)).samples
    if settings.store is None or settings.audit_file is None or settings.retention_days is None:
        raise UserError("these settings keep no samples", where=str(config), mend="set samples.store")
    audit = Audit(settings.audit_file)
    audit.check()
    try:
        yield _Opened(SampleStore(objects_at(settings.store), audit), settings.retention_days, getpass.getuser())
    except OSError as error:
        raise UserError(f"the sample store fails ({error.strerror or error})", where=settings.store) from error
