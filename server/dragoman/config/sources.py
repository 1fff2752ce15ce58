"""Where settings come from beside flags: the environment and a TOML file. What is misspelt there is refused."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from pydantic_settings import BaseSettings, TomlConfigSettingsSource

PREFIX = "DRAGOMAN_"
CONFIG_VARIABLE = "DRAGOMAN_CONFIG"
SERVER_VARIABLE = "DRAGOMAN_SERVER"
API_KEY_VARIABLE = "DRAGOMAN_API_KEY"
USER_VARIABLE = "DRAGOMAN_USER"
CLIENT_TLS_VARIABLES = ("DRAGOMAN_SERVER_CA", "DRAGOMAN_CLIENT_CERT", "DRAGOMAN_CLIENT_KEY")
"""Read by the commands that are clients of a server; no settings of a server."""
_NO_SETTINGS = (CONFIG_VARIABLE, SERVER_VARIABLE, API_KEY_VARIABLE, USER_VARIABLE, *CLIENT_TLS_VARIABLES)
DEFAULT_CONFIG = Path("dragoman.toml")

# Kubernetes tells every pod of a namespace, in its environment, where a Service named `dragoman` is.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")


class ConfigError(Exception):
    """The TOML file cannot be read, or there is no setting of a variable's name. `problems` has a line for each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def refuse_unknown_variables(settings_cls: type[BaseSettings]) -> None:
    """Raises ConfigError for variables that look like settings and are none."""
    known = {name.upper() for name in settings_cls.model_fields}
    known |= {name.removeprefix(PREFIX) for name in _NO_SETTINGS}
    problems = []
    for variable in sorted(os.environ):
        # As when they are read, capitals make no difference.
        name = variable.upper().removeprefix(PREFIX)
        if variable.upper().startswith(PREFIX) and name not in known and not _SERVICE_LINK.fullmatch(name):
            close = difflib.get_close_matches(name, sorted(known))
            hint = f"; did you mean {' or '.join(f'{PREFIX}{each}' for each in close)}?" if close else ""
            problems.append(f"{variable}: there is no such setting{hint}")
    if problems:
        raise ConfigError(problems)


def toml_source(settings_cls: type[BaseSettings]) -> TomlConfigSettingsSource:
    """What the TOML file says. Raises ConfigError."""
    path = _config_file()
    try:
        return TomlConfigSettingsSource(settings_cls, path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error


def _config_file() -> Path | None:
    """The TOML file to read. A file that was named must exist; the default one need not."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise ConfigError([f"{CONFIG_VARIABLE} names {path}, which is not a file"])
        return path
    return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None
