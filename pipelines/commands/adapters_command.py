"""``deepsynth adapters``: list, compare, name and delete the versions in the model registry."""

import datetime
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from components.shared.errors import UserError, printable
from components.shared.telemetry.terminal import output_console
from components.shared.tracking import model_registry
from components.shared.tracking.mlflow_connection import missing_store
from components.shared.tracking.model_registry import CHAMPION, RegisteredAdapter

adapters = typer.Typer(
    no_args_is_help=True, help="List, compare, name and delete the adapters in the MLflow model registry."
)
_LISTED_TAGS = {"gate": "gate", "cer": "CER", "cer_interval": "95 % interval", "base_model": "base model"}
_NOT_TERMINAL_WIDTH = 160
_LONG_FRACTION = re.compile(r"(?<![\w.])-?\d+\.\d{5,}(?![\w.])")

RunsDir = Annotated[
    Path, typer.Option(help="The folder of the runs. Its MLflow store is used if MLFLOW_TRACKING_URI is not set.")
]
Name = Annotated[str, typer.Argument(help="The registered model's name.")]


@adapters.command("list")
def list_adapters(
    name: Annotated[str | None, typer.Argument(help="One registered model. Default: all models.")] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """List the registered versions, newest first, with their aliases and the gate's decision."""
    uri = _uri(runs_dir)
    names = [name] if name else model_registry.names(uri=uri)
    versions = [version for one in names for version in model_registry.versions_of(one, uri=uri)]
    if not versions:
        said = Text(f"nothing is registered{f' as {name}' if name else ''}")
        output_console(_NOT_TERMINAL_WIDTH, highlight=False).print(said)
        return
    table = _table("name", "version", "aliases", "registered (UTC)", *_LISTED_TAGS.values())
    for version in versions:
        tags = [_rounded(version.tags.get(tag, "–")) for tag in _LISTED_TAGS]
        _add(table, [version.name, str(version.version), _aliases(version), _time(version), *tags])
    output_console(_NOT_TERMINAL_WIDTH, highlight=False).print(table)


@adapters.command()
def compare(
    name: Name,
    versions: Annotated[
        list[int] | None, typer.Argument(help="The versions to compare. Default: the champion and the newest.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Show the tags of versions side by side: gate and evaluation figures, digests, base model.

    A line that begins with ≠ shows a difference.
    """
    uri = _uri(runs_dir)
    known = _known(name, uri)
    chosen = [_version(known, number) for number in versions] if versions else _champion_and_newest(known)
    table = _table("", "", *(f"version {version.version}" for version in chosen))
    _add_compared(table, "aliases", [_aliases(version) for version in chosen])
    _add_compared(table, "registered (UTC)", [_time(version) for version in chosen])
    for tag in sorted({tag for version in chosen for tag in version.tags}):
        _add_compared(table, tag, [_rounded(version.tags.get(tag, "–")) for version in chosen])
    output_console(_NOT_TERMINAL_WIDTH, highlight=False).print(table)


@adapters.command("set-alias")
def set_alias(
    name: Name,
    version: Annotated[int, typer.Argument(help="The version's number.")],
    alias: Annotated[str, typer.Option(help="The alias, without @.")] = CHAMPION,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Give an alias to a version; the one that had it loses it. Services that follow the alias change by themselves.

    With an earlier version it is a rollback, in every replica of a service.

    **Example**: `deepsynth adapters set-alias page-reader 2`
    """
    alias, uri = alias.removeprefix("@"), _uri(runs_dir)
    known = _known(name, uri)
    found = _version(known, version)
    before = next((other for other in known if alias in other.aliases), None)
    model_registry.set_alias(found, alias, uri=uri)
    said = f"@{alias} is {found}" + (f"; it was version {before.version}" if before and before != found else "")
    output_console(_NOT_TERMINAL_WIDTH, highlight=False).print(Text(said))


@adapters.command()
def delete(
    name: Name,
    version: Annotated[int, typer.Argument(help="The version's number.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete it even if it is the champion.")] = False,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Delete one version. Its files stay in MLflow's artifact store until `mlflow gc` removes them.

    **Example**: `deepsynth adapters delete page-reader 3 --yes`
    """
    uri = _uri(runs_dir)
    found = _deletable(name, version, uri, force)
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("deleting needs a yes", where=str(found), mend="add --yes")
        if not typer.confirm(f"Delete {found}{f' ({_aliases(found)})' if found.aliases else ''}?"):
            output_console(_NOT_TERMINAL_WIDTH, highlight=False).print(Text("nothing was deleted"))
            return
        found = _deletable(name, version, uri, force)  # a run may have made it the champion meanwhile
    model_registry.delete_version(found, uri=uri)
    output_console(_NOT_TERMINAL_WIDTH, highlight=False).print(Text(f"deleted {found}"))


def _uri(runs_dir: Path) -> str:
    from pipelines.local.runs_folder import tracking_uri

    uri = tracking_uri(runs_dir)
    # Reading would create an empty store and report that nothing is registered.
    if store := missing_store(uri):
        mend = "name the folder of the runs with --runs-dir, or set MLFLOW_TRACKING_URI"
        raise UserError("there is no MLflow store", where=str(store), mend=mend)
    return uri


def _known(name: str, uri: str) -> list[RegisteredAdapter]:
    versions = model_registry.versions_of(name, uri=uri)
    if not versions:
        names = ", ".join(model_registry.names(uri=uri)) or "none"
        raise UserError("nothing is registered under this name", where=name, mend=f"registered names: {names}")
    return versions


def _version(known: list[RegisteredAdapter], number: int) -> RegisteredAdapter:
    for version in known:
        if version.version == number:
            return version
    numbers = ", ".join(str(version.version) for version in known)
    raise UserError(f"there is no version {number}", where=known[0].name, mend=f"its versions: {numbers}")


def _deletable(name: str, number: int, uri: str, force: bool) -> RegisteredAdapter:
    found = _version(_known(name, uri), number)
    if CHAMPION in found.aliases and not force:
        mend = f"give the alias {CHAMPION} to another version first, or add --force"
        raise UserError(
            "is the champion: without it, the next adapter is compared with the base", where=str(found), mend=mend
        )
    return found


def _champion_and_newest(known: list[RegisteredAdapter]) -> list[RegisteredAdapter]:
    champions = [version for version in known if CHAMPION in version.aliases]
    newest = [version for version in known if version not in champions]
    return champions + newest[: 2 - len(champions)]


def _add_compared(table: Table, name: str, values: list[str]) -> None:
    _add(table, ["≠" if len(set(values)) > 1 else "", name, *values])


def _add(table: Table, cells: Iterable[str]) -> None:
    # Anybody can write tags: allow no markup and no terminal control characters.
    table.add_row(*(Text(printable(cell)) for cell in cells))


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _rounded(text: str) -> str:
    """Return ``text`` with its long fractions rounded to 4 significant digits; the intervals say how sure they are.

    >>> _rounded("0.03528886241810601"), _rounded("0.0207476 to 0.0552257"), _rounded("0.05"), _rounded("1.2.34567")
    ('0.03529', '0.02075 to 0.05523', '0.05', '1.2.34567')
    """
    return _LONG_FRACTION.sub(lambda number: f"{float(number[0]):.4g}", text)


def _aliases(version: RegisteredAdapter) -> str:
    return ", ".join(f"@{alias}" for alias in version.aliases) or "–"


def _time(version: RegisteredAdapter) -> str:
    return datetime.datetime.fromtimestamp(version.created / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M")
