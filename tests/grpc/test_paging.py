"""Page tokens: they fit the request that they came from, on any replica, and nothing else."""

import base64
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.engine.ports import Page, TimeKey
from dragoman.errors import InvalidInput, PageTokenInvalid
from dragoman.records import Owner
from dragoman.transport.paging import SEQUENCE_KEY, TEXT_KEY, TIME_KEY, KeyCodec, PagedRequest, Pager
from dragoman.transport.validation import Checks
from dragoman.v1 import agent_service_pb2
from dragoman.v1.run_service_pb2 import RUN_STATUS_FAILED, ListRunsRequest
from dragoman.v1.session_service_pb2 import ListMessagesRequest, ListSessionsRequest
from dragoman.v1.usage_service_pb2 import QueryUsageRequest

OWNER = Owner("local")
KEY: TimeKey = (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), UUID("01890a5d-ac96-774b-bcce-b302099a8057"))


def token(request: PagedRequest, owner: Owner, codec: KeyCodec[Any], key: Any) -> str:
    """The token of the page after a row with this key."""
    checks = Checks()
    pager = Pager(request, owner, codec, checks)
    checks.done()
    rows = [key] * (pager.size + 1)
    return pager.cut(rows, lambda _row: agent_service_pb2.Agent(), lambda row: row)[1]


def read(request: PagedRequest, owner: Owner, codec: KeyCodec[Any]) -> Page[Any]:
    checks = Checks()
    page = Pager(request, owner, codec, checks).page()
    checks.done()
    return page


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
    st.integers(min_value=0, max_value=2**63 - 1),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_keys_come_back_as_they_were(at: datetime, id_: UUID, sequence: int, texts: list[str]) -> None:
    cases: list[tuple[KeyCodec[Any], Any]] = [
        (TIME_KEY, (at, id_)),
        (SEQUENCE_KEY, sequence),
        (TEXT_KEY, tuple(texts)),
    ]
    for codec, key in cases:
        made = token(ListRunsRequest(agent_name="a"), OWNER, codec, key)
        assert made.isascii()
        assert read(ListRunsRequest(agent_name="a", page_token=made), OWNER, codec).after == key


def test_a_token_may_be_used_with_another_page_size() -> None:
    made = token(ListRunsRequest(page_size=3), OWNER, TIME_KEY, KEY)
    assert read(ListRunsRequest(page_size=7, page_token=made), OWNER, TIME_KEY) == Page(8, KEY)


FOREIGN: list[tuple[str, PagedRequest, Owner]] = [
    ("another filter", ListRunsRequest(agent_name="b"), OWNER),
    ("no filter", ListRunsRequest(), OWNER),
    ("one filter more", ListRunsRequest(agent_name="a", status=RUN_STATUS_FAILED), OWNER),
    ("another method", ListSessionsRequest(agent_name="a"), OWNER),
    ("another principal", ListRunsRequest(agent_name="a"), Owner("other")),
    ("another user", ListRunsRequest(agent_name="a"), Owner("local", "u")),
    ("principal and user shifted", ListRunsRequest(agent_name="a"), Owner("loca", "l")),
]


@pytest.mark.parametrize(("request_", "owner"), [case[1:] for case in FOREIGN], ids=[c[0] for c in FOREIGN])
def test_a_foreign_token_is_refused(request_: PagedRequest, owner: Owner) -> None:
    foreign = type(request_)()
    foreign.MergeFrom(request_)  # type: ignore[arg-type]  # the same type: mypy sees a union
    foreign.page_token = token(ListRunsRequest(agent_name="a"), OWNER, TIME_KEY, KEY)
    with pytest.raises(PageTokenInvalid):
        read(foreign, owner, TIME_KEY)


@pytest.mark.parametrize("garbage", ["A", "AAAA", "====", "a b", "ü", "-_" * 40, "\x00", "A" * 100_000])
@pytest.mark.parametrize("codec", [TIME_KEY, SEQUENCE_KEY, TEXT_KEY])
def test_garbage_is_refused(garbage: str, codec: KeyCodec[Any]) -> None:
    with pytest.raises(PageTokenInvalid):
        read(ListMessagesRequest(page_token=garbage), OWNER, codec)


def test_every_single_altered_character_is_noticed() -> None:
    made = token(ListMessagesRequest(), OWNER, SEQUENCE_KEY, 7)
    for place in range(len(made)):
        for character in "A_z9=":
            altered = made[:place] + character + made[place + 1 :]
            if altered != made:
                with pytest.raises(PageTokenInvalid):
                    read(ListMessagesRequest(page_token=altered), OWNER, SEQUENCE_KEY)
    for altered in (made[:-1], made + "=", made + "A", base64.urlsafe_b64encode(b"x").decode() + made):
        with pytest.raises(PageTokenInvalid):
            read(ListMessagesRequest(page_token=altered), OWNER, SEQUENCE_KEY)


def test_another_process_makes_the_same_token() -> None:
    program = (
        "from dragoman.records import Owner\n"
        "from dragoman.transport.paging import SEQUENCE_KEY, Pager\n"
        "from dragoman.transport.validation import Checks\n"
        "from dragoman.v1.session_service_pb2 import ListMessagesRequest\n"
        "request = ListMessagesRequest(session_id='s', page_size=1)\n"
        "pager = Pager(request, Owner('local'), SEQUENCE_KEY, Checks())\n"
        "print(pager.cut([4, 5], lambda row: request, lambda row: row)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == token(ListMessagesRequest(session_id="s"), OWNER, SEQUENCE_KEY, 4)


SIZES = [(0, 100), (1, 1), (1000, 1000)]


@pytest.mark.parametrize(("asked", "size"), SIZES)
def test_page_sizes(asked: int, size: int) -> None:
    pager = Pager(QueryUsageRequest(page_size=asked), OWNER, TEXT_KEY, Checks(), default=100, maximum=1000)
    assert (pager.size, pager.page()) == (size, Page(size + 1, None))


def test_several_kinds_of_violation_are_invalid_input() -> None:
    with pytest.raises(InvalidInput) as caught:
        read(ListRunsRequest(page_size=-1, page_token="x"), OWNER, TIME_KEY)
    assert caught.value.reason == "INVALID_INPUT"
    assert [violation.field for violation in caught.value.violations] == ["page_size", "page_token"]
