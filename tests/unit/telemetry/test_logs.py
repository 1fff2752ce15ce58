"""What is written to the log, and above all what is not: local variables, and words that Agno quotes."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from agno.utils import log as agno_log

from dragoman.telemetry import configure_logging

SECRET = "mysql://root:hunter2@db"
AGNO = ("agno", "agno-team", "agno-workflow")

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is the process's: what a test changes is put back."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in AGNO)]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    def read() -> list[dict[str, Any]]:
        out, err = capsys.readouterr()
        assert out == ""
        return [json.loads(line) for line in err.splitlines()]

    return read


def fail_with_a_secret_at_hand() -> None:
    password = SECRET
    raise RuntimeError(f"cannot connect with {len(password)} characters")


def log_a_defect(name: str) -> None:
    try:
        fail_with_a_secret_at_hand()
    except RuntimeError:
        logging.getLogger(name).exception("a call failed", extra={"incident_id": "i1"})


def test_a_line_has_its_fields(lines: Lines) -> None:
    configure_logging("INFO", "json")
    logging.getLogger("dragoman.engine.run").info("run ended", extra={"run_id": "r1", "events": 3})
    logging.getLogger("dragoman.engine.run").debug("not now")
    (line,) = lines()
    assert line.pop("timestamp")
    assert line == {
        "event": "run ended",
        "level": "info",
        "logger": "dragoman.engine.run",
        "run_id": "r1",
        "events": 3,
    }


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_traceback_tells_what_was_raised_where_and_no_variable(
    form: Literal["json", "text"], level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level, form)
    log_a_defect("dragoman.transport.status")
    written = capsys.readouterr().err
    assert "cannot connect with 23 characters" in written
    assert "fail_with_a_secret_at_hand" in written
    assert SECRET not in written


def test_of_what_agno_reports_the_place_is_kept_and_not_the_words(lines: Lines) -> None:
    configure_logging("INFO", "json")
    agno_log.use_agent_logger()  # type: ignore[no-untyped-call]  # Agno has no types; a team that ran before changed it
    agno_log.log_error(f"Could not run f(password={SECRET})")  # type: ignore[no-untyped-call]  # Agno has no types
    log_a_defect("agno-team")
    report, failure = lines()
    assert report["level"] == "error"
    assert report["logger"] == "agno"
    assert report["reported_at"].startswith(f"{__name__}:")
    assert report["reported_at"].endswith("test_of_what_agno_reports_the_place_is_kept_and_not_the_words")
    assert "raised_at" not in report
    assert failure["exception_class"] == "RuntimeError"
    assert failure["raised_at"].endswith("in fail_with_a_secret_at_hand")
    assert "cannot connect" not in json.dumps([report, failure])
    assert SECRET not in json.dumps([report, failure])


def test_at_level_debug_agnos_words_are_shown(lines: Lines) -> None:
    configure_logging("DEBUG", "json")
    agno_log.log_warning("Could not run f(): no such city")  # type: ignore[no-untyped-call]  # Agno has no types
    (line,) = lines()
    assert line["event"] == "Could not run f(): no such city"


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_an_agent_in_debug_mode_does_not_write_prompts(level: str, lines: Lines) -> None:
    configure_logging(level, "json")
    agno_log.set_log_level_to_debug()
    try:
        agno_log.log_debug(f"user: {SECRET}")
        agno_log.log_info(f"user: {SECRET}")
    finally:
        agno_log.set_log_level_to_info()
    logging.getLogger("httpx2").warning("the pool is full")
    assert [line["event"] for line in lines()] == ["the pool is full"]


def test_equal_complaints_of_the_traces_library_are_written_once_in_a_while(lines: Lines) -> None:
    configure_logging("INFO", "json")
    exporter = logging.getLogger("opentelemetry.exporter.otlp")
    for _ in range(100):
        exporter.error("no collector")
    exporter.error("something else")
    assert [line["event"] for line in lines()] == ["no collector", "something else"]


def test_what_a_provider_says_appears_at_level_debug_only(lines: Lines) -> None:
    for level in ("INFO", "DEBUG"):
        configure_logging(level, "json")
        logging.getLogger("dragoman.adapter.failures").warning("failed", extra={"error_text": "you said so"})
    assert [line["error_text"] for line in lines()] == ["(shown at level DEBUG)", "you said so"]
