"""Any message of Agno's goes into a session and comes back equal, on every database."""

from collections.abc import Sequence
from dataclasses import replace

from agno.models.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import make
from support.agno_messages import assert_same, messages

from dragoman import records
from dragoman.adapter.messages import decode, encode
from dragoman.engine.ports import Page
from dragoman.storage import SqlStore

EVERY: Page[int] = Page(100)


async def restored(store: SqlStore, stored: Sequence[records.Message]) -> list[Message]:
    """What a run would be given of the rows."""
    hashes = sorted({sha256 for row in stored for sha256 in row.media})
    media = await store.get_media(make.ALICE, hashes)
    return [decode(row.parts, media) for row in stored]


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.large_base_example,
        HealthCheck.data_too_large,
    ],
)
@given(said=st.lists(messages(), min_size=1, max_size=4))
async def test_messages_come_back_equal(store: SqlStore, said: list[Message]) -> None:
    session = make.session()
    run = make.run(session)
    encoded = [encode(message) for message in said]
    rows = [
        replace(
            make.message(run, message.role),
            parts=each.parts,
            media=tuple(medium.sha256 for medium in each.media),
        )
        for message, each in zip(said, encoded, strict=True)
    ]
    media = {medium.sha256: medium for each in encoded for medium in each.media}
    await store.start_run(run, session)
    await store.end_run(make.end(run, messages=rows, media=list(media.values())))

    listed = await store.list_messages(run.owner, session.id, EVERY)
    assert [row.parts for row in listed] == [each.parts for each in encoded]
    assert await store.load_history(run.owner, session.id, None) == listed
    for back, message in zip(await restored(store, listed), said, strict=True):
        assert_same(back, message)
