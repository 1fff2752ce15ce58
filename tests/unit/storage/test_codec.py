"""How values lie in a column."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman import ids
from dragoman.storage import codec


@given(st.binary(max_size=5000) | st.binary(max_size=20).map(lambda part: part * 500))
def test_a_value_comes_back(value: bytes) -> None:
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        (b"", codec.PLAIN),
        (b"a" * (codec.COMPRESS_FROM - 1), codec.PLAIN),
        (b"a" * codec.COMPRESS_FROM, codec.ZSTD),
        (os.urandom(4096), codec.PLAIN),  # does not get smaller
    ],
)
def test_the_tag_says_how(value: bytes, tag: bytes) -> None:
    stored = codec.encode(value)
    assert stored[:1] == tag
    assert len(stored) <= len(value) + 1


@pytest.mark.parametrize(
    "stored", [b"", b"\x03abc", codec.reference(ids.new_id())], ids=["empty", "unknown", "reference"]
)
def test_an_unknown_tag_is_an_error(stored: bytes) -> None:
    with pytest.raises(ValueError, match="unknown tag"):
        codec.decode(stored)


def test_a_reference_is_told_from_a_value() -> None:
    value_id = ids.new_id()
    assert codec.referenced(codec.reference(value_id)) == value_id
    assert codec.referenced(codec.encode(b"\x02")) is None


@given(st.binary(max_size=100), st.integers(1, 40))
def test_pieces_join(data: bytes, size: int) -> None:
    pieces = codec.cut(data, size)
    assert b"".join(pieces) == data
    assert all(len(piece) <= size for piece in pieces)
    assert len(pieces) == max(1, -(-len(data) // size))


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_events_come_back(events: list[bytes]) -> None:
    assert codec.unframe(codec.frame(events)) == tuple(events)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.data())
def test_a_chunk_that_is_cut_off_is_an_error_or_whole_events(
    events: list[bytes], data: st.DataObject
) -> None:
    framed = codec.frame(events)
    ends = {len(codec.frame(events[:count])) for count in range(len(events) + 1)}
    length = data.draw(st.integers(0, len(framed)))
    if length in ends:
        assert codec.frame(codec.unframe(framed[:length])) == framed[:length]
    else:
        with pytest.raises(ValueError, match="cut off"):
            codec.unframe(framed[:length])


def test_threads_do_not_share_a_compressor() -> None:
    values = [os.urandom(20) * 5000 for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert [codec.decode(stored) for stored in pool.map(codec.encode, values)] == values
