"""A step as a program: its flags are its config's fields, and ``--config`` reads many of them from a file."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, create_model
from pydantic_settings import BaseSettings, CliApp, PydanticBaseSettingsSource, SettingsConfigDict

from components.shared.errors import UserError
from components.shared.programs.cpu_threads import limit_threads
from components.shared.programs.exit_in_order import ends_in_order
from components.shared.programs.machine_failures import named_failures
from components.shared.programs.step_config import StepConfig, read_config_file, user_error
from components.shared.telemetry.logs import configure_logs, exit_code_of
from components.shared.telemetry.tracing import step_span


class _CommandLine(BaseSettings):
    model_config = SettingsConfigDict(
        extra="forbid",
        cli_kebab_case=False,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_parse_none_str="null",
        use_attribute_docstrings=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read only flags and the config file: an environment variable such as ``SEED`` is not meant for a step."""
        return (init_settings,)


def step_main(
    step: str,
    config_model: type[StepConfig],
    run: Callable[[Any], Any],
    arguments: Sequence[str],
    check: Callable[[Any], None] | None = None,
) -> int:
    """Run ``components.<step>`` from command-line arguments and return the exit code.

    Flags override the values of the ``--config`` file. With ``--check_only`` the settings are checked and nothing runs;
    ``check`` then also compares them with this machine.
    """
    try:
        with ends_in_order(step):
            configure_logs(step)
            limit_threads()
            config, check_only = config_from_arguments(step, config_model, arguments)
            if check_only:
                if check:
                    check(config)
                return 0
            with step_span(step), named_failures(step, config):
                run(config)
    except UserError as error:
        return exit_code_of(error)
    except KeyboardInterrupt:
        print("interrupted: nothing half-written was kept", file=sys.stderr)
        return 130
    return 0


def config_from_arguments(
    step: str, config_model: type[StepConfig], arguments: Sequence[str]
) -> tuple[StepConfig, bool]:
    """Parse ``arguments`` into ``config_model``; return it, and whether the settings are to be checked only.

    Raises:
        UserError: a value or a key of the config file is wrong. An unknown flag exits with 2, as argparse does.
    """
    settings = create_model(
        config_model.__name__,
        __base__=(_CommandLine, config_model),
        __doc__=config_model.__doc__,
        config=(Path | None, Field(None, description="a YAML or JSON file with any of the options below")),
        check_only=(bool, Field(False, description="check the settings and stop")),
    )
    program = SettingsConfigDict(cli_prog_name=f"python -m components.{step}")
    settings.model_config = {**settings.model_config, **program}  # type: ignore[typeddict-unknown-key]
    where = f"components.{step}"
    try:
        from_file: dict[str, Any] = {}
        if path := _config_path(arguments):
            where = str(path)
            from_file = read_config_file(path)
            if "config" in from_file:
                raise UserError("a config file cannot name another one", where=f"{where}: config", mend="leave it out")
        values = CliApp.run(settings, cli_args=list(arguments), **from_file).model_dump(exclude_unset=True)
        values.pop("config", None)
        check_only = bool(values.pop("check_only", False))
        return config_model.model_validate(values), check_only
    except ValidationError as error:
        raise user_error(error, config_model, where) from error


def _config_path(arguments: Sequence[str]) -> Path | None:
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            return Path(arguments[index + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None
