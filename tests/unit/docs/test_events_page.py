"""docs/events.md has every event, its levels and links hold, and a page that differs is told."""

import json
import re
from pathlib import Path

import pytest
from google.protobuf import json_format

from docs import generate
from dragoman.transport.detail import LEVELS
from dragoman.v1 import event_pb2

EVENTS = {field.name for field in event_pb2.RunEvent.DESCRIPTOR.oneofs_by_name["event"].fields}


@pytest.fixture(scope="module")
def page() -> str:
    return generate.page()


def test_the_page_that_is_there_is_the_one_that_is_made(page: str) -> None:
    assert page == generate.PAGE.read_text(encoding="utf-8"), "run make docs"


def test_every_event_has_its_place(page: str) -> None:
    headings = re.findall(r"^### (\S+)$", page, re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) >= EVENTS
    assert page.count("Sent from `EVENT_DETAIL_") == len(EVENTS) == len(LEVELS)


def test_examples_are_events(page: str) -> None:
    examples = [
        json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ]
    kinds = {json_format.ParseDict(each, event_pb2.RunEvent()).WhichOneof("event") for each in examples}
    assert kinds == EVENTS - generate.WITHOUT_EXAMPLE


def test_links_lead_somewhere(page: str) -> None:
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors


def test_a_page_that_differs_is_told_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "PAGE", tmp_path / "events.md")
    assert generate.main(["--check"]) == 1
    assert "run make docs" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
