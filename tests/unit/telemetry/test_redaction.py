"""Whatever looks like a secret is masked wherever it stands, and what does not is left as it is."""

import json
import logging
import string
import time
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragoman.auth import keys
from dragoman.auth.keys import make_key
from dragoman.telemetry import configure_logging
from dragoman.telemetry.redaction import redact, redact_text

SECRET = "s3cr3tValue0123456789"
KEY = f"dgm_k3yabcdefghijkl2_{'S3cr3t-_':x<43}"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

SHAPES = [
    KEY,
    f"Bearer {SECRET}",
    f"Basic {SECRET}=",
    f"bearer {SECRET}",
    TOKEN,
    f"sk-ant-api03-{SECRET}",
    f"mysql+pymysql://root:{SECRET}@db:3306/name",
    f"redis://:{SECRET}@host:6379/0",
    f"https://user:pa:ss/{SECRET}@host/path",
    f"x-api-key: {SECRET}",
    f"authorization={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f'{{"password": "{SECRET} with spaces"}}',
    f"{{'client_secret': '{SECRET}'}}",
    f"api_key='{SECRET}'",
    f"('x-api-key', '{SECRET}')",
    f"aws_secret_access_key={SECRET}",
    f"refresh_token={SECRET}&grant_type=x",
]
HARMLESS = [
    "run ended",
    "total_tokens=15 input_tokens: 3",
    "GET http://host:8080/path?user=ann",
    "sqlite:///dragoman.db",
    "dgm_abcdefghijklmnop is the key's id",
    "a basic thing",
    "the bearer",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "tokens: 12, the task-list",
    "risk-averse and desk-bound",
]

PROSE = st.text(st.characters(codec="utf-8", exclude_characters="\"'@"), max_size=40)
ALPHABET = string.ascii_letters + string.digits + "_-"


@pytest.mark.parametrize("text", SHAPES, ids=map(str, range(len(SHAPES))))
def test_a_secret_is_masked(text: str) -> None:
    masked = redact_text(f"before {text} after")
    assert SECRET not in masked
    assert KEY not in masked
    assert TOKEN not in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert "***" in masked
    assert redact_text(masked) == masked


@pytest.mark.parametrize("text", HARMLESS, ids=map(str, range(len(HARMLESS))))
def test_what_is_no_secret_is_left(text: str) -> None:
    assert redact_text(text) == text


def test_of_a_key_its_id_stays() -> None:
    made = make_key("billing", now=datetime(2026, 1, 1, tzinfo=UTC))
    assert redact_text(f"with {made.text}.") == f"with dgm_{made.key.id}_***."
    assert keys.split(KEY) is not None  # the key above is of that form, too


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=PROSE, after=PROSE, secret=st.text(ALPHABET, min_size=43, max_size=43), data=st.data())
def test_wherever_it_stands(before: str, after: str, secret: str, data: st.DataObject) -> None:
    shape = data.draw(
        st.sampled_from(
            [
                "dgm_abcdefghijklmnop_{}",
                "Bearer {}",
                "://user:{}@host",
                "x-api-key: {}",
                'password="{}"',
                "'authorization': '{}'",
            ]
        )
    )
    assert secret not in redact_text(f"{before} {shape.format(secret)} {after}")


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | PROSE | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PROSE, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=NESTED, path=st.lists(st.sampled_from(["list", "tuple", "dict", "object"]), max_size=10))
def test_however_deep_it_lies(value: Any, path: list[str]) -> None:
    class Odd:
        def __str__(self) -> str:
            return f"Bearer {SECRET}"

    hidden: Any = {
        "password": SECRET,
        "more": f"Bearer {SECRET}",
        "raw": f"Bearer {SECRET}".encode(),
        "odd": Odd(),
    }
    for step in path:
        hidden = {
            "list": [value, hidden],
            "tuple": (hidden, value),
            "dict": {"inner": hidden, "X-Api-Key": [SECRET]},
            "object": {"token": {"deep": SECRET}, "headers": [("x-api-key", SECRET)], "rest": hidden},
        }[step]
    line = json.dumps(redact({"event": "x", "field": hidden, "value": value}))
    assert SECRET not in line


def test_figures_and_plain_fields_are_left() -> None:
    event = {"event": "run ended", "total_tokens": 15, "max_token": 3, "key": "abc", "ok": True, "none": None}
    assert redact(event) == event


def test_a_long_text_takes_no_long_time() -> None:
    """Every shape, begun again and again and never ended: a pattern that goes back over it would take hours."""
    began = time.process_time()
    for start in ("dgm_", "Bearer ", "eyJ.", "sk-", "://a:", "password=", "password'", "x_", "a" * 50 + "-"):
        redact_text(start * (300_000 // len(start)))
    assert time.process_time() - began < 60


def fail() -> None:
    raise RuntimeError(f"cannot reach mysql://root:{SECRET}@db with {KEY}")


@pytest.mark.parametrize("form", ["json", "text"])
def test_lines_are_masked_in_every_part(
    form: Literal["json", "text"], capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        configure_logging("INFO", form)
        log = logging.getLogger("dragoman.test")
        log.warning(
            "refused Bearer %s", SECRET, extra={"authorization": SECRET, "headers": {"x-api-key": SECRET}}
        )
        try:
            fail()
        except RuntimeError:
            log.exception("failed")
    finally:
        root.handlers, root.level = before
    written = capsys.readouterr().err
    assert "refused Bearer ***" in written
    assert "mysql://root:***@db" in written
    assert SECRET not in written
    assert KEY not in written
