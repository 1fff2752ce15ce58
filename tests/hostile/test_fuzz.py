"""Every method, asked with evil and damaged requests: a typed answer each time, and a server that has not noticed.

The methods are those of the descriptors. The examples are the same in every run; `make fuzz` takes many more, and others.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from support import nasty
from support.nasty import METHODS, bounded
from support.target import Target, target

from dragoman.v1.usage_service_pb2 import USAGE_DIMENSION_SESSION

EVIL, DAMAGED = 30, 30
"""Examples for each method."""

SAME_SERVER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]

methods = pytest.mark.parametrize("path", METHODS, ids=lambda path: path.rpartition("/")[2])


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("target")) as made:
        yield made


@pytest.fixture
def server(attacked: Target) -> Iterator[Target]:
    """The server, on which nothing must be left behind."""
    yield attacked
    attacked.do(attacked.settled())


@methods
def test_a_plain_request_is_served(path: str, server: Target) -> None:
    """Else what follows would only test the first check of each method."""
    assert server.do(server.call(path, nasty.PLAIN[path])).reason == ""


@methods
def test_evil_values(path: str, server: Target) -> None:
    @bounded(EVIL, suppress_health_check=SAME_SERVER)
    @given(nasty.evil(path))
    def attack(data: bytes) -> None:
        server.do(server.call(path, data))

    attack()


@methods
def test_damaged_bytes(path: str, server: Target) -> None:
    @bounded(DAMAGED, suppress_health_check=SAME_SERVER)
    @given(nasty.damaged(path))
    def attack(data: bytes) -> None:
        server.do(server.call(path, data))

    attack()


PAGED = [path for path, method in METHODS.items() if "page_token" in method.input_type.fields_by_name]


@pytest.mark.parametrize("path", PAGED, ids=lambda path: path.rpartition("/")[2])
def test_page_tokens_with_one_bit_wrong(path: str, server: Target) -> None:
    """No token but those that were given out opens a page."""
    fields = METHODS[path].input_type.fields_by_name
    data = nasty.tag(fields["page_size"].number, nasty.VARINT) + b"\x01"
    if path.endswith("/ListMessages"):
        data += nasty.block(fields["session_id"].number, nasty.SESSION.encode())
    if path.endswith("/QueryUsage"):
        data += nasty.tag(fields["group_by"].number, nasty.VARINT) + nasty.varint(USAGE_DIMENSION_SESSION)
    token = server.do(server.call(path, data)).messages[0].next_page_token
    assert token
    field = fields["page_token"].number
    for bit in range(len(token) * 8):
        wrong = bytearray(token.encode())
        wrong[bit // 8] ^= 1 << bit % 8
        answer = server.do(server.call(path, data + nasty.block(field, bytes(wrong))))
        # With its highest bit set a byte is no UTF-8, and the request none.
        assert answer.reason == ("INVALID_INPUT" if bit % 8 == 7 else "PAGE_TOKEN_INVALID")
    assert server.do(server.call(path, data + nasty.block(field, token.encode()))).reason == ""
