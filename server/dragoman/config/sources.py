"""Where settings come from beside flags: the environment, files of secrets and a TOML file. What is misspelt is refused.

Secrets come as files where an orchestrator hands them over so: `DRAGOMAN_SECRETS` names the folder, and a file there is named
as the variable would be, `dragoman_database_url`. Other files in it are somebody else's.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pydantic_settings import BaseSettings, EnvSettingsSource, TomlConfigSettingsSource

PREFIX = "DRAGOMAN_"
CONFIG_VARIABLE = "DRAGOMAN_CONFIG"
SECRETS_VARIABLE = "DRAGOMAN_SECRETS"
SERVER_VARIABLE = "DRAGOMAN_SERVER"
API_KEY_VARIABLE = "DRAGOMAN_API_KEY"
TOKEN_VARIABLE = "DRAGOMAN_TOKEN"  # noqa: S105 - a name
USER_VARIABLE = "DRAGOMAN_USER"
CLIENT_TLS_VARIABLES = ("DRAGOMAN_SERVER_CA", "DRAGOMAN_CLIENT_CERT", "DRAGOMAN_CLIENT_KEY")
"""Read by the commands that are clients of a server; no settings of a server."""
_NO_SETTINGS = (
    CONFIG_VARIABLE,
    SECRETS_VARIABLE,
    SERVER_VARIABLE,
    API_KEY_VARIABLE,
    TOKEN_VARIABLE,
    USER_VARIABLE,
    *CLIENT_TLS_VARIABLES,
)
DEFAULT_CONFIG = Path("dragoman.toml")

# Kubernetes tells every pod of a namespace, in its environment, where a Service named `dragoman` is.
_SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")


class ConfigError(Exception):
    """A file cannot be read, or there is no setting of a variable's or a file's name. `problems` has a line for each."""

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
            problems.append(_no_such_setting(variable, name, known, PREFIX))
    if problems:
        raise ConfigError(problems)


class SecretFiles(EnvSettingsSource):
    """What the files in the folder of `DRAGOMAN_SECRETS` say, as if they were variables. Raises ConfigError."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        folder = os.environ.get(SECRETS_VARIABLE)
        self._read = _secrets(Path(folder), settings_cls) if folder else {}
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._read


def _secrets(folder: Path, settings_cls: type[BaseSettings]) -> dict[str, str]:
    """The contents of the files that are named as settings are, by their names in small letters."""
    prefix = PREFIX.lower()
    known = {name.lower() for name in settings_cls.model_fields}
    found, problems = {}, []
    path = folder
    try:
        for path in sorted(folder.iterdir()):
            name = path.name.lower()
            if not name.startswith(prefix):
                continue
            if name.removeprefix(prefix) not in known:
                problems.append(_no_such_setting(str(path), name.removeprefix(prefix), known, prefix))
                continue
            found[name] = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError:  # whose words quote the secret
        raise ConfigError([f"{path}: is not UTF-8"]) from None
    if problems:
        raise ConfigError(problems)
    return found


def _no_such_setting(named: str, name: str, known: Collection[str], prefix: str) -> str:
    """A line for what is named like a setting and is none."""
    close = difflib.get_close_matches(name, sorted(known))
    hint = f"; did you mean {' or '.join(f'{prefix}{each}' for each in close)}?" if close else ""
    return f"{named}: there is no such setting{hint}"


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
