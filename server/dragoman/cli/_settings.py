"""Settings from flags: what a flag leaves open, the environment and the TOML file fill in."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dragoman.cli._report import USAGE, Failure

if TYPE_CHECKING:
    from dragoman.config import Settings

DatabaseOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="sqlite:///file.db or mysql+pymysql://user:password@host/name.",
        show_default="sqlite:///dragoman.db",
    ),
]
LogLevelOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.", show_default="INFO"),
]


def load_settings(flags: Mapping[str, object]) -> "Settings":
    """The settings with these flags on top; a flag that is None was not given. Raises Failure, one line per mistake."""
    from pydantic import ValidationError

    from dragoman.config import ConfigError, Settings

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]  # checking them is what it does
    except ValidationError as error:
        lines = [_told(each["loc"], each["msg"]) for each in error.errors(include_input=False)]
        raise _not_valid(lines) from error
    except ConfigError as error:
        raise _not_valid(error.problems) from error


def _not_valid(lines: Iterable[str]) -> Failure:
    return Failure("\n  ".join(["the settings are not valid:", *lines]), code=USAGE)


def _told(location: tuple[int | str, ...], message: str) -> str:
    """A line for one mistake. What is wrong between settings names them itself."""
    return f"{_name(location)}: {message}" if location else message.removeprefix("Value error, ")


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
