"""Commands that are imported only when they are invoked: ``deepsynth --help`` lists them without their modules."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MARKUP: Any = "markdown"
"""how Typer reads docstrings and help texts"""


@dataclass(frozen=True)
class LazyCommand:
    """A command by its place.

    Attributes:
        name: what the user types.
        place: ``module:name`` of a function, or of a Typer app with commands of its own.
        help: the first paragraph of the command's help.
    """

    name: str
    place: str
    help: str

    def load(self) -> Any:
        """Import the command and return it as the Click command or group that Typer makes of it."""
        module, _, name = self.place.partition(":")
        found = getattr(import_module(module), name)
        app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=MARKUP)
        app.callback()(lambda: None)  # with it a single command is a group's, with its name
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=self.name)
        else:
            app.command(self.name)(found)
        return typer.main.get_group(app).commands[self.name]


def lazy_group(commands: list[LazyCommand]) -> type[TyperGroup]:
    """Return the class of a Typer app whose commands are ``commands``, in this order."""
    by_name = {command.name: command for command in commands}

    class LazyGroup(TyperGroup):
        """A group that knows its commands by name and help; the invoked one is imported."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = {
                command.name: TyperCommand(command.name, help=command.help, rich_markup_mode=MARKUP)
                for command in commands
            }

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """Return name, command and further arguments; the command is the imported one."""
            name, _, rest = super().resolve_command(ctx, args)
            return name, by_name[name].load() if name else None, rest

    return LazyGroup
