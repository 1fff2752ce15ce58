"""Media: bytes that are what they claim to be, and those that are not; and that the model really gets them."""

import io
import wave
import zipfile

import pytest
from agno.agent import Agent
from agno.media import Audio, File, Image, Video
from PIL import Image as Picture
from support.bench import bench, claude

from dragoman.adapter import SniffingInspector
from dragoman.adapter import media as looks
from dragoman.engine.ports import InputMedia, MediaKind
from dragoman.errors import InvalidMedia, MediaTooLarge
from dragoman.testing.anthropic import FakeAnthropic, Turn
from dragoman.v1 import message_pb2

LIMIT = 300_000


def picture(form: str, size: tuple[int, int] = (20, 10), **options: object) -> bytes:
    data = io.BytesIO()
    Picture.effect_noise(size, 80).convert("RGB").save(data, form, **options)
    return data.getvalue()


def sound() -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(400))
    return data.getvalue()


def jpeg_without_jfif() -> bytes:
    """As cameras and phones write it: a colour profile comes first."""
    jfif = picture("JPEG")
    length = int.from_bytes(jfif[4:6], "big")
    return jfif[:2] + b"\xff\xe2\x00\x10ICC_PROFILE\x00\x01\x01" + jfif[4 + length :]


def office() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("_rels/.rels", "<r/>")
        archive.writestr("word/document.xml", "<w/>")
    return data.getvalue()


MP4 = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(64)
MP3 = b"ID3\x04\x00\x00\x00\x00\x00\x00" + bytes(64)
PDF = b"%PDF-1.7\n1 0 obj\n" + bytes(64)
PNG, JPEG, GIF, WEBP = (picture(form) for form in ("PNG", "JPEG", "GIF", "WEBP"))

ACCEPTED = [
    (MediaKind.IMAGE, "image/png", PNG, "image/png"),
    (None, "image/png", PNG, "image/png"),
    (MediaKind.IMAGE, "", JPEG, "image/jpeg"),
    (None, "", GIF, "image/gif"),
    (MediaKind.IMAGE, "IMAGE/JPG; q=1", JPEG, "image/jpeg"),
    (MediaKind.IMAGE, "image/webp", WEBP, "image/webp"),
    (MediaKind.IMAGE, "image/jpeg", jpeg_without_jfif(), "image/jpeg"),
    (MediaKind.FILE, "application/pdf", PDF, "application/pdf"),
    (None, "", PDF, "application/pdf"),
    (None, "text/markdown", "# Hé".encode(), "text/markdown"),
    (None, "", b"plain", "text/plain"),
    (MediaKind.FILE, "application/json", b'{"a": 1}', "application/json"),
    (MediaKind.AUDIO, "audio/x-wav", sound(), "audio/wav"),
    (None, "audio/mp3", MP3, "audio/mpeg"),
    (MediaKind.VIDEO, "video/mp4", MP4, "video/mp4"),
    (MediaKind.AUDIO, "audio/mp4", MP4, "audio/mp4"),
]


@pytest.mark.parametrize(("kind", "claimed", "data", "expected"), ACCEPTED)
async def test_what_is_accepted(kind: MediaKind | None, claimed: str, data: bytes, expected: str) -> None:
    medium = await SniffingInspector(LIMIT).inspect(kind, claimed, "n", data, "media[0]")
    assert (medium.mime_type, medium.name, medium.data) == (expected, "n", data)
    assert medium.kind is (kind or medium.kind)
    assert looks.for_agno([medium])


async def test_office_documents() -> None:
    docx = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    medium = await SniffingInspector(LIMIT).inspect(None, docx, "", office(), "media[0]")
    assert (medium.kind, medium.mime_type) == (MediaKind.FILE, docx)


REFUSED = [
    (MediaKind.IMAGE, "image/png", b"", "media[3].data", "is empty"),
    (MediaKind.IMAGE, "image/png", JPEG, "media[3].mime_type", "image/jpeg"),
    (MediaKind.IMAGE, "image/png", b"just text", "media[3].data", "text/plain"),
    (MediaKind.IMAGE, "", PDF, "media[3].data", "application/pdf"),
    (MediaKind.IMAGE, "", PNG[:60] + b"\0\0\0\0" + PNG[64:], "media[3].data", "damaged"),
    (MediaKind.IMAGE, "", PNG[:30], "media[3].data", "image/png"),
    (MediaKind.IMAGE, "", b"\xff\xd8\xff\xe0 no picture", "media[3].data", "image/jpeg"),
    (MediaKind.IMAGE, "image/bmp", picture("BMP"), "media[3].data", "not a picture"),
    (MediaKind.IMAGE, "image/svg+xml", b"<svg/>", "media[3].data", "not a picture"),
    (MediaKind.FILE, "image/png", PNG, "media[3].data", "not a file"),
    (MediaKind.FILE, "application/pdf", b"text", "media[3].mime_type", "text/plain"),
    (MediaKind.FILE, "text/plain", b"a\0b\xff", "media[3].data", "no known type"),
    (None, "text/plain", b"\xff\xfe\xfa", "media[3].data", "no known type"),
    (MediaKind.AUDIO, "audio/wav", MP3, "media[3].mime_type", "audio/mpeg"),
    (MediaKind.VIDEO, "video/mp4", sound(), "media[3].data", "not a film"),
]


@pytest.mark.parametrize(("kind", "claimed", "data", "field", "words"), REFUSED)
async def test_what_is_refused(
    kind: MediaKind | None, claimed: str, data: bytes, field: str, words: str
) -> None:
    with pytest.raises(InvalidMedia) as raised:
        await SniffingInspector(LIMIT).inspect(kind, claimed, "", data, "media[3]")
    (violation,) = raised.value.violations
    assert violation.field == field
    assert words in violation.description


async def test_too_many_bytes() -> None:
    with pytest.raises(MediaTooLarge) as raised:
        await SniffingInspector(10).inspect(None, "", "", b"12345678901", "media[0]")
    assert raised.value.violations[0].field == "media[0].data"
    assert raised.value.metadata == {"max_bytes": "10"}


@pytest.mark.parametrize("side", [8100, 14_000])
async def test_a_picture_that_would_unpack_to_a_huge_bitmap(side: int) -> None:
    data = io.BytesIO()
    Picture.new("1", (side, side)).save(data, "PNG")
    assert len(data.getvalue()) < LIMIT
    with pytest.raises(InvalidMedia) as raised:
        await SniffingInspector(LIMIT).inspect(None, "", "", data.getvalue(), "media[0]")
    assert "pixels" in raised.value.violations[0].description


async def test_large_media_are_looked_at_in_a_thread() -> None:
    data = picture("PNG", (300, 300))
    assert len(data) > looks.THREAD_BYTES
    medium = await SniffingInspector(LIMIT).inspect(None, "image/png", "", data, "media[0]")
    assert medium.kind is MediaKind.IMAGE


async def test_the_model_gets_every_kind_of_picture() -> None:
    pictures = [PNG, JPEG, GIF, WEBP, jpeg_without_jfif()]
    inspector = SniffingInspector(LIMIT)
    media = [await inspector.inspect(None, "", "", data, "media") for data in pictures]
    async with FakeAnthropic() as fake:
        fake.script(Turn("Five."))
        model = claude(fake)
        async with bench(lambda: Agent(model=model)) as b:
            assert (await b.turn("How many?", media)).outcome.status == "completed"
        assert fake.requests[0].images() == pictures


def test_shown_media() -> None:
    shown = looks.show(Image(content=PNG, metadata={"name": "p.png"}))
    assert (shown.kind, shown.mime_type, shown.name) == (message_pb2.MEDIA_KIND_IMAGE, "image/png", "p.png")
    assert (shown.data, shown.size_bytes, len(shown.id)) == (PNG, len(PNG), 64)
    far = looks.show(Video(url="https://example.org/v.mp4"))
    assert (far.kind, far.uri, far.id) == (message_pb2.MEDIA_KIND_VIDEO, "https://example.org/v.mp4", "")
    spoken = looks.show(Audio(content=sound(), transcript="Hello"))
    assert (spoken.kind, spoken.transcript) == (message_pb2.MEDIA_KIND_AUDIO, "Hello")
    large = looks.show(File(content=b"x" * looks.INLINE_BELOW, filename="f"))
    assert (large.kind, large.data, large.size_bytes) == (
        message_pb2.MEDIA_KIND_FILE,
        b"",
        looks.INLINE_BELOW,
    )


def test_media_for_agno() -> None:
    arguments = looks.for_agno(
        [
            InputMedia(MediaKind.IMAGE, "image/png", "p", PNG),
            InputMedia(MediaKind.AUDIO, "audio/wav", "", sound()),
            InputMedia(MediaKind.FILE, "text/plain", "f.txt", b"x"),
            InputMedia(MediaKind.VIDEO, "video/mp4", "", MP4),
            InputMedia(MediaKind.IMAGE, "image/gif", "", GIF),
        ]
    )
    assert {name: len(media) for name, media in arguments.items()} == {
        "images": 2,
        "audio": 1,
        "files": 1,
        "videos": 1,
    }
    assert arguments["audio"][0].format == "wav"
    assert arguments["files"][0].filename == "f.txt"
