"""Requests as nobody would write them: well-formed ones with evil values, and damaged ones. All as bytes of the wire.

    PLAIN[method]                         a request that is in order, made from the names of its fields
    evil(method)                          a strategy: in order but for a few fields, which hold the worst of their type
    damaged(method)                       a strategy: bits flipped, cut, spliced, lengths that lie, groups, endless nesting

What is sent walks the descriptors of the contract, so a method that is added is attacked at once. Ids stand for what a server
has (`SESSION`, `RUN`, ...): whoever sends the bytes puts real ones, which are as long, in their place.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from dragoman.v1 import (
    agent_service_pb2,
    run_service_pb2,
    session_service_pb2,
    usage_service_pb2,
)

SESSION: Final = "00000000-0000-7000-8000-000000000001"
RUN: Final = "00000000-0000-7000-8000-000000000002"
PAUSED: Final = "00000000-0000-7000-8000-000000000003"
MEDIUM: Final = "0" * 62 + "01"
REQUIREMENT: Final = "00000000-0000-7000-8000-000000000004"
AGENT: Final = "echo"

METHODS: Mapping[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for module in (agent_service_pb2, session_service_pb2, run_service_pb2, usage_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

LONG_RUNS: Final = settings.get_current_profile_name() == "long"
"""`--hypothesis-profile long`: many more examples, others each time."""


def bounded(examples: int, **others: Any) -> settings:
    """So many examples, the same ones in every run of the tests; with the profile `long` a hundred times as many."""
    return settings(
        max_examples=examples * 100 if LONG_RUNS else examples,
        derandomize=not LONG_RUNS,
        database=None,
        deadline=None,
        print_blob=True,
        **others,
    )


# The wire format, as far as it is needed to break it.

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)


def varint(number: int) -> bytes:
    """Any integer, as the 64 bits that protobuf makes of it."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def tag(number: int, wire: int) -> bytes:
    """What stands before a field."""
    return varint(number << 3 | wire)


def block(number: int, data: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return tag(number, BYTES) + varint(len(data)) + data


def nested(levels: int) -> bytes:
    """A Struct of objects within each other."""
    data = b""
    for _ in range(levels):
        # fields { key: "a" value { struct_value } }
        data = block(1, block(1, b"a") + block(2, block(5, data)))
    return data


def wide(members: int) -> bytes:
    """A Struct of many members, each of which is refused: nothing is no value."""
    return b"".join(block(1, block(1, b"k%d" % each) + block(2, b"")) for each in range(members))


# Values.

INTEGERS: Final = (
    0,
    1,
    -1,
    2,
    7,
    200,
    201,
    1001,
    2**31 - 1,
    -(2**31),
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    -(2**63),
)

TEXTS: Final[tuple[bytes, ...]] = (
    b"",
    b"\x00",
    b"a\x00b",
    b"\x1b[2J\x1b]0;owned\x07",
    b"line\r\nERROR forged",
    "\u202egnp.exe \u200f\u2066 \ufeff".encode(),
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f600".encode(),
    b"e" + "\u0301".encode() * 200,
    b"'; DROP TABLE sessions; --",
    b'" OR ""="',
    b"%s %n %(x)s {0.__class__} {{7*7}} {% for x in y %}",
    b"<script>alert(1)</script>",
    b"${jndi:ldap://127.0.0.1/x}",
    b"../../etc/passwd",
    b"Europe/../../../etc/passwd",
    b"NaN",
    b"-0",
    b"x" * 300,
    b"\xf0\x9f\x98\x80" * 2000,
    SESSION.upper().encode(),
    SESSION.replace("-", "").encode(),
    b"{" + SESSION.encode() + b"}",
    b"urn:uuid:" + SESSION.encode(),
    b"00000000-0000-0000-0000-000000000000",
    b"ffffffff-ffff-ffff-ffff-ffffffffffff",
    b"A" * 48,
    b"////++++====",
    "\u0661\u0662".encode(),
)

NOT_UTF8: Final[tuple[bytes, ...]] = (
    b"\xff\xfe",
    b"\xc3\x28",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xc0\x80",  # NUL in two bytes
    b"\xf8\x88\x80\x80\x80",
    b"\xf4\x90\x80\x80",  # beyond the last character
    b"caf\xe9",
)

DOUBLES: Final = (float("nan"), float("inf"), float("-inf"), -0.0, 1e308, 5e-324, 2.0**53 + 2, 0.1)


def _picture(kind: str, size: tuple[int, int] = (2, 2)) -> bytes:
    out = io.BytesIO()
    Image.new("1", size).save(out, kind)
    return out.getvalue()


def _huge_png() -> bytes:
    """A picture that says it has 2^62 points, in a hundred bytes."""
    head = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


PNG: Final = _picture("PNG")
MEDIA: Final[tuple[bytes, ...]] = (
    b"",
    PNG,
    PNG[:-20],
    PNG[:12],
    _huge_png(),
    _picture("GIF"),
    _picture("BMP"),
    b"%PDF-1.7\n" + b"[" * 2000,
    b"PK\x03\x04" + bytes(100),
    b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
    b"\x1f\x8b\x08" + bytes(100),
    b"OggS" + bytes(30),
    b"ID3" + b"\xff" * 30,
    b"text, and nothing else",
    bytes(range(256)),
)

CROWD: Final = 60_000
"""Bytes of many fields of one kind."""

LARGEST: Final = 2 * 1024 * 1024
"""Bytes of a request: what is larger than a server takes is another matter, and refused by gRPC itself."""

_TEXT_OF: Final[Mapping[str, str]] = {
    "agent_name": AGENT,
    "name": AGENT,
    "session_id": SESSION,
    "run_id": RUN,
    "media_id": MEDIUM,
    "message": "hello",
    "title": "a title",
    "time_zone": "Africa/Johannesburg",
    "mime_type": "image/png",
    "requirement_id": REQUIREMENT,
    "result": "done",
}
"""What a text is in a request that is in order. A field that is not named is left out."""

_MESSAGES: Final[Mapping[str, bytes]] = {
    "update_mask": block(1, b"title"),
    "resolutions": block(1, REQUIREMENT.encode()) + block(2, tag(1, VARINT) + b"\x01"),
}

_LEFT_OUT: Final = {
    ("GetMediaRequest", "offset"),
    ("ListMessagesRequest", "run_id"),
    ("RunRequest", "session_id"),
}


def _plain(request: Descriptor) -> bytes:
    data = b""
    for field in request.fields:
        if (request.name, field.name) in _LEFT_OUT:
            continue
        if field.type == FieldDescriptor.TYPE_STRING and field.name in _TEXT_OF:
            paused = request.name == "ContinueRunRequest" and field.name == "run_id"
            data += block(field.number, (PAUSED if paused else _TEXT_OF[field.name]).encode())
        elif field.name in _MESSAGES:
            data += block(field.number, _MESSAGES[field.name])
    return data


PLAIN: Final[Mapping[str, bytes]] = {path: _plain(method.input_type) for path, method in METHODS.items()}


# Evil values in requests that are in order.

_STRUCTS: Final = st.one_of(
    st.sampled_from([nested(levels) for levels in (1, 31, 32, 33, 48, 49, 50, 60)]),
    st.sampled_from([wide(members) for members in (1, 100, 3000)]),
    st.sampled_from(DOUBLES).map(
        lambda number: block(1, block(1, b"lines") + block(2, tag(2, FIXED64) + struct.pack("<d", number)))
    ),
    st.sampled_from(TEXTS * 3 + NOT_UTF8).map(
        lambda text: block(1, block(1, text) + block(2, block(3, text)))
    ),
    st.integers(-2, 2**40).map(
        lambda kind: block(1, block(1, b"a") + block(2, tag(1, VARINT) + varint(kind)))
    ),
)


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[bytes]:
    number = field.number
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            # Seldom what is not even text: such a request is refused as a whole, before anything of it is looked at.
            texts = st.sampled_from(TEXTS * 6 + NOT_UTF8) | st.text(max_size=40).map(str.encode)
            known = (
                st.sampled_from([_TEXT_OF[field.name].encode()]) if field.name in _TEXT_OF else st.nothing()
            )
            return (known | texts).map(lambda text: block(number, text))
        case FieldDescriptor.TYPE_BYTES:
            return st.sampled_from(MEDIA).map(lambda data: block(number, data))
        case FieldDescriptor.TYPE_DOUBLE:
            return st.sampled_from(DOUBLES).map(lambda value: tag(number, FIXED64) + struct.pack("<d", value))
        case _:
            few = st.integers(0, 8)  # the values of enums
            return (st.sampled_from(INTEGERS) | few).map(lambda value: tag(number, VARINT) + varint(value))


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[bytes]:
    if field.message_type is None:
        one = _scalar(field)
    elif field.message_type.full_name == "google.protobuf.Struct":
        one = _STRUCTS.map(lambda data: block(field.number, data))
    else:
        one = _message(field.message_type, depth + 1).map(lambda data: block(field.number, data))
    if not field.is_repeated:
        return one
    # One, two that are the same (keys of a map, dimensions), or too many.
    return st.one_of(one, one.map(lambda data: data * 2), one.map(_crowd))


def _crowd(data: bytes) -> bytes:
    return data * min(1200, max(2, CROWD // max(1, len(data))))


def _later(field: FieldDescriptor, depth: int) -> st.SearchStrategy[bytes]:
    """Made when it is drawn: messages may hold themselves."""
    return st.deferred(lambda: _field(field, depth))


def _message(kind: Descriptor, depth: int) -> st.SearchStrategy[bytes]:
    if depth > 6 or not kind.fields:
        return st.just(b"")
    each = [_later(field, depth) for field in kind.fields]
    return st.lists(st.one_of(each), min_size=1, max_size=3).map(b"".join)


_UNKNOWN: Final = st.sampled_from(
    (
        b"",
        block(15_000, b"of a later version"),
        tag(2**29 - 1, VARINT) + varint(-1),
        tag(900, FIXED32) + b"\xff" * 4,
        tag(901, GROUP) + tag(902, VARINT) + b"\x05" + tag(901, END_GROUP),
        block(16, b"type.googleapis.com/google.protobuf.Any" * 20),
    )
)


def evil(path: str) -> st.SearchStrategy[bytes]:
    """Requests of the method that are in order, with up to three of their fields set again to something evil."""
    return st.tuples(st.just(PLAIN[path]), _message(METHODS[path].input_type, 0), _UNKNOWN).map(b"".join)


# Damage.

_BOMBS: Final[tuple[bytes, ...]] = (
    tag(1, BYTES) + varint(2**31 - 1),
    tag(1, BYTES) + varint(2**63 - 1) + b"x",
    tag(1, BYTES) + varint(-1),
    tag(3, VARINT) + b"\xff" * 11,
    tag(0, VARINT) + b"\x00",
    b"\xff" * 16,
    tag(5, GROUP) * 3000,
    tag(5, GROUP) + b"".join(tag(each, GROUP) for each in range(1, 300)),
    tag(5, END_GROUP),
    tag(5, 6) + b"x",
    tag(5, 7) + b"x",
    block(5, nested(200)),
    block(2, nested(2000)),
    block(1, b"") * 20_000,
)


def _spliced(data: bytes, at: int, other: bytes) -> bytes:
    place = at % (len(data) + 1)
    return data[:place] + other + data[place:]


def _flipped(data: bytes, bit: int) -> bytes:
    if not data:
        return b"\x01"
    place, rest = divmod(bit % (len(data) * 8), 8)
    return data[:place] + bytes([data[place] ^ 1 << rest]) + data[place + 1 :]


_ANYWHERE: Final = st.integers(0, 4000)
_Harm = Callable[[bytes], bytes]

_HARMS: Final[st.SearchStrategy[_Harm]] = st.one_of(
    _ANYWHERE.map(lambda bit: lambda data: _flipped(data, bit)),
    _ANYWHERE.map(lambda at: lambda data: data[: at % (len(data) + 1)]),
    _ANYWHERE.map(lambda at: lambda data: data[at % (len(data) + 1) :]),
    _ANYWHERE.map(lambda at: lambda data: data + data[at % (len(data) + 1) :]),
    st.tuples(_ANYWHERE, st.binary(min_size=1, max_size=8)).map(
        lambda given: lambda data: _spliced(data, *given)
    ),
    st.tuples(_ANYWHERE, st.sampled_from(_BOMBS)).map(lambda given: lambda data: _spliced(data, *given)),
    st.tuples(_ANYWHERE, st.sampled_from(list(PLAIN.values()))).map(
        lambda given: lambda data: _spliced(data, *given)
    ),
    # Every field with the wire type of another.
    st.integers(0, 7).map(
        lambda wire: lambda data: bytes([data[0] & ~7 | wire]) + data[1:] if data else b"\x07"
    ),
)


def _harmed(data: bytes, harms: list[_Harm]) -> bytes:
    for harm in harms:
        data = harm(data)
    return data[:LARGEST]


def damaged(path: str) -> st.SearchStrategy[bytes]:
    """Requests of the method with one to three damages."""
    whole = st.just(PLAIN[path]) | evil(path)
    return st.builds(_harmed, whole, st.lists(_HARMS, min_size=1, max_size=3))
