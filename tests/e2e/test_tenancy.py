"""Nobody gets at what another owner has, nor learns that it is there: every method, by every kind of caller.

Each attack is made twice: on what the victim has, and on what never was. The caller must be told the same, byte for byte,
but for the id that it sent itself; no answer may contain anything of the victim's; and afterwards every row of the victims
is as it was. A method without a row here fails the test.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from support.tenancy import (
    AGENT,
    CALLERS,
    PATIENCE,
    Caller,
    Outcome,
    Rows,
    Thing,
    Victim,
    World,
    by_session,
    ghost,
    outcome,
    picture,
    secret,
    session_request,
    world,
)

from dragoman.auth import Scope
from dragoman.records import Owner
from dragoman.transport.access import RULES
from dragoman.v1 import (
    agent_service_pb2,
    event_pb2,
    message_pb2,
    run_service_pb2,
    session_service_pb2,
    usage_service_pb2,
)

MODULES = (agent_service_pb2, session_service_pb2, run_service_pb2, usage_service_pb2)
METHODS = {
    method.name: (f"/{service.full_name}/{method.name}", method)
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
pb, sessions, usage = run_service_pb2, session_service_pb2, usage_service_pb2

Attacks: TypeAlias = Callable[[Thing, str], Iterator[Message]]
"""The requests on a thing; with a session of the caller's own, if it may have one."""


def _runs(thing: Thing, own: str) -> Iterator[Message]:
    for session, conflict in (
        (thing.session, pb.SESSION_CONFLICT_REJECT),
        (thing.busy, pb.SESSION_CONFLICT_INTERRUPT),
        (thing.waiting, pb.SESSION_CONFLICT_QUEUE),
    ):
        yield pb.RunRequest(agent_name=AGENT, message="hi", session_id=session, session_conflict=conflict)
    yield pb.RunRequest(agent_name=AGENT, message="hi", media=[message_pb2.MediaInput(media_id=thing.medium)])


def _run(thing: Thing, own: str) -> Iterator[Message]:
    yield from _runs(thing, own)
    # Under the id of another's request: a run of one's own.
    yield pb.RunRequest(agent_name=AGENT, message="hi", request_id=thing.run_request)


def _execute(thing: Thing, own: str) -> Iterator[Message]:
    yield from _runs(thing, own)
    # With what it says in it, in the victim's session: as far as the caller goes, nobody has asked that before.
    yield pb.RunRequest(
        agent_name=AGENT, message="hi", session_id=thing.session, request_id=f"{thing.run_request}!"
    )


def _continue(thing: Thing, own: str) -> Iterator[Message]:
    answer = pb.Resolution(requirement_id=thing.requirement, confirmation=pb.Confirmation(confirmed=True))
    for run_id in (thing.paused, thing.done, thing.active):
        yield pb.ContinueRunRequest(run_id=run_id, resolutions=[answer])
    yield pb.ContinueRunRequest(
        run_id=thing.paused, resolutions=[answer], request_id=f"continue {thing.run_request}"
    )


def _messages(thing: Thing, own: str) -> Iterator[Message]:
    for session in (thing.session, thing.busy, thing.waiting):
        yield sessions.ListMessagesRequest(session_id=session, inline_media=True, include_members=True)
    yield sessions.ListMessagesRequest(session_id=thing.session, run_id=thing.done)
    token = thing.tokens["ListMessages"]
    yield sessions.ListMessagesRequest(session_id=thing.session, page_size=1, page_token=token)
    if own:
        yield sessions.ListMessagesRequest(session_id=own, run_id=thing.done)
        yield sessions.ListMessagesRequest(session_id=own, page_token=token)


def _sessions(thing: Thing, own: str) -> Iterator[Message]:
    yield sessions.ListSessionsRequest()
    yield sessions.ListSessionsRequest(page_size=1, page_token=thing.tokens["ListSessions"])


def _list_runs(thing: Thing, own: str) -> Iterator[Message]:
    yield pb.ListRunsRequest()
    yield pb.ListRunsRequest(status=pb.RUN_STATUS_PAUSED)
    for session in (thing.session, thing.busy):
        yield pb.ListRunsRequest(session_id=session)
    yield pb.ListRunsRequest(page_size=1, page_token=thing.tokens["ListRuns"])


def _usage(thing: Thing, own: str) -> Iterator[Message]:
    every = [value for value in usage.UsageDimension.values() if value]
    yield usage.QueryUsageRequest(group_by=every)
    yield usage.QueryUsageRequest(session_id=thing.session)
    yield usage.QueryUsageRequest(group_by=every, session_id=thing.busy)
    yield by_session(page_size=1, page_token=thing.tokens["QueryUsage"])


def _attach(thing: Thing, own: str) -> Iterator[Message]:
    for run_id, after in ((thing.done, 0), (thing.active, 0), (thing.active, 10**12), (thing.paused, 2)):
        yield pb.AttachRunRequest(run_id=run_id, after_sequence=after)


ATTACKS: dict[str, Attacks] = {
    "ListAgents": lambda thing, own: iter([agent_service_pb2.ListAgentsRequest()]),
    "GetAgent": lambda thing, own: iter([agent_service_pb2.GetAgentRequest(name=AGENT)]),
    "CreateSession": lambda thing, own: iter(
        [session_request(AGENT, thing.session_request, title="another")]
    ),
    "GetSession": lambda thing, own: iter(
        sessions.GetSessionRequest(session_id=each) for each in (thing.session, thing.busy, thing.waiting)
    ),
    "ListSessions": _sessions,
    "UpdateSession": lambda thing, own: iter(
        sessions.UpdateSessionRequest(
            session_id=each, title="mine", update_mask=FieldMask(paths=["title", "metadata"])
        )
        for each in (thing.session, thing.busy)
    ),
    "DeleteSession": lambda thing, own: iter(
        sessions.DeleteSessionRequest(session_id=each) for each in (thing.session, thing.busy, thing.waiting)
    ),
    "ListMessages": _messages,
    "GetMedia": lambda thing, own: iter(
        sessions.GetMediaRequest(media_id=thing.medium, offset=offset) for offset in (0, 10**12)
    ),
    "ContinueRun": _continue,
    "CancelRun": lambda thing, own: iter(
        pb.CancelRunRequest(run_id=each, note="mine") for each in (thing.done, thing.active, thing.paused)
    ),
    "GetRun": lambda thing, own: iter(
        pb.GetRunRequest(run_id=each) for each in (thing.done, thing.active, thing.paused)
    ),
    "ListRuns": _list_runs,
    "AttachRun": _attach,
    "QueryUsage": _usage,
    "GetBudget": lambda thing, own: iter(
        [usage.GetBudgetRequest(), usage.GetBudgetRequest(agent_name="dear")]
    ),
    # Last: they leave something behind that the others would list.
    "Run": _run,
    "Execute": _execute,
}


def test_every_method_is_attacked() -> None:
    assert ATTACKS.keys() == METHODS.keys()


async def test_what_is_anothers_is_not_there(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as made:
        before = await made.rows()
        callers = [caller for caller in CALLERS if not caller.refused]
        victims = {victim.owner for victim in made.victims}
        strangers = [caller for caller in callers if caller.owner not in victims]
        found = [each for caller in strangers for each in await _attacks(made, caller)]
        assert not found, "\n".join(found)
        _assert_untouched(before, await made.rows(), victims)
        # Each victim is also after what the other has, and makes things of its own by that.
        for caller in callers:
            if caller.owner in victims:
                found += await _attacks(made, caller)
        assert not found, "\n".join(found)
        _assert_untouched(before, await made.rows(), set())
        await _assert_insiders(made)
        await _assert_streams(made)


async def test_who_is_not_let_in_learns_nothing(database_url: str, tmp_path: Path) -> None:
    """Whatever is asked, of whomever, and whatever is wrong with what is brought: it is told the same."""
    async with world(database_url, tmp_path) as made:
        before, thing = await made.rows(), made.victims[0].thing
        told: dict[str, set[Any]] = {}
        for caller in CALLERS:
            if not caller.refused:
                continue
            # All at once: who brings an unknown key waits for the next look at the keys.
            answers = await asyncio.gather(
                *(
                    _call(made, caller, method, next(attacks(each, "")))
                    for method, attacks in ATTACKS.items()
                    for each in (thing, ghost(thing))
                )
            )
            assert {answer.code for answer in answers} == {caller.refused}, caller.name
            told[caller.name] = {answer.told({}) for answer in answers}
        assert {len(each) for each in told.values()} == {1}, told
        proofs = ("expired", "revoked", "wrong secret", "unknown key", "bad token")
        assert len(set[Any]().union(*(told[name] for name in proofs))) == 1, told
        assert await made.rows() == before


async def test_the_same_picture_is_everybodys_own(database_url: str, tmp_path: Path) -> None:
    """Two owners who upload the same bytes do not meet: neither sees, keeps or loses the other's."""
    async with world(database_url, tmp_path) as made:
        victim = made.victims[0]
        runner = next(each for each in CALLERS if each.name == "runner")
        get = sessions.GetMediaRequest(media_id=victim.thing.medium)
        before = await made.rows()
        assert (await _call(made, runner, "GetMedia", get)).code == "NOT_FOUND"
        upload = pb.RunRequest(
            agent_name=AGENT, message="hi", media=[message_pb2.MediaInput(data=picture(victim.owner))]
        )
        ran = await _call(made, runner, "Execute", upload)
        (run,) = [each.run for each in ran.answers if isinstance(each, pb.ExecuteResponse)]
        assert (await _call(made, runner, "GetMedia", get)).code == "OK"
        delete = sessions.DeleteSessionRequest(session_id=run.session_id)
        assert (await _call(made, runner, "DeleteSession", delete)).code == "OK"
        assert (await _call(made, runner, "GetMedia", get)).code == "NOT_FOUND"
        _assert_untouched(before, await made.rows(), {victim.owner})
        mine = await _call(made, victim.caller, "GetMedia", get)
        pieces = [each.data for each in mine.answers if isinstance(each, sessions.GetMediaResponse)]
        assert b"".join(pieces) == picture(victim.owner)


def _of_all(thing: Thing) -> Iterator[tuple[str, Message]]:
    """What only administrators may ask for."""
    yield "QueryUsage", usage.QueryUsageRequest(all_owners=True)
    yield "QueryUsage", usage.QueryUsageRequest(all_owners=True, session_id=thing.session)
    yield "ListRuns", pb.ListRunsRequest(all_owners=True, session_id=thing.session)
    yield "GetBudget", usage.GetBudgetRequest(principal="somebody-else")
    yield "CancelRun", pb.CancelRunRequest(run_id=thing.active, all_owners=True)
    yield "CancelRun", pb.CancelRunRequest(run_id=thing.paused, all_owners=True)


async def test_what_is_all_owners_is_for_administrators(database_url: str, tmp_path: Path) -> None:
    async with world(database_url, tmp_path) as made:
        before, thing = await made.rows(), made.victims[0].thing
        callers = [each for each in CALLERS if not each.refused and each.scope is not Scope.ADMIN]
        for caller in callers:
            for each in (thing, ghost(thing)):
                for method, request in _of_all(each):
                    answer = await _call(made, caller, method, request)
                    assert answer.code == "PERMISSION_DENIED", (caller.name, method)
                    if not _forbidden(caller, method):
                        assert b"scope admin" in answer.details, (caller.name, method)
        narrow = next(each for each in CALLERS if each.name == "narrow admin")
        for method, request, code in (
            ("ListRuns", pb.ListRunsRequest(all_owners=True), "PERMISSION_DENIED"),
            ("ListRuns", pb.ListRunsRequest(all_owners=True, agent_name=AGENT), "NOT_FOUND"),
            ("ListRuns", pb.ListRunsRequest(all_owners=True, agent_name="other-one"), "OK"),
            ("QueryUsage", usage.QueryUsageRequest(all_owners=True), "PERMISSION_DENIED"),
            ("QueryUsage", usage.QueryUsageRequest(all_owners=True, agent_name=AGENT), "NOT_FOUND"),
            ("CancelRun", pb.CancelRunRequest(run_id=thing.active, all_owners=True), "NOT_FOUND"),
        ):
            assert (await _call(made, narrow, method, request)).code == code, request
        # Names that only all owners have are no filter of one's own; and some nobody can have.
        admin = next(each for each in CALLERS if each.name == "admin")
        for method, request in (
            ("ListRuns", pb.ListRunsRequest(principal="x")),
            ("QueryUsage", usage.QueryUsageRequest(user="x")),
            ("ListRuns", pb.ListRunsRequest(all_owners=True, user="é")),
            ("GetBudget", usage.GetBudgetRequest(principal="x" * 129)),
        ):
            assert (await _call(made, admin, method, request)).code == "INVALID_ARGUMENT", request
        assert await made.rows() == before


async def test_an_administrator_sees_how_things_stand_and_ends_runs(
    database_url: str, tmp_path: Path
) -> None:
    """Of all owners; and nothing of what was said."""
    async with world(database_url, tmp_path) as made:
        admin = next(each for each in CALLERS if each.name == "admin")
        vera, ursula = made.victims

        async def ask(method: str, request: Message) -> Any:
            answer = await _call(made, admin, method, request)
            assert answer.code == "OK", answer
            for victim in made.victims:
                assert secret(victim.owner).encode() not in answer.said
            return answer.answers[0]

        by_owner = [usage.USAGE_DIMENSION_PRINCIPAL, usage.USAGE_DIMENSION_USER]
        everybody = usage.QueryUsageRequest(group_by=by_owner, all_owners=True, page_size=1)
        first = await ask("QueryUsage", everybody)
        everybody.page_token = first.next_page_token
        second = await ask("QueryUsage", everybody)
        owners = [Owner(group.principal, group.user) for page in (first, second) for group in page.groups]
        assert owners == sorted((vera.owner, ursula.owner), key=lambda owner: owner.principal)
        everybody.all_owners = False
        assert b"PAGE_TOKEN_INVALID" in (await _call(made, admin, "QueryUsage", everybody)).details
        named = usage.QueryUsageRequest(
            group_by=[*by_owner, usage.USAGE_DIMENSION_DAY],
            all_owners=True,
            user=ursula.owner.user,
            time_zone="Africa/Johannesburg",
        )
        assert [group.principal for group in (await ask("QueryUsage", named)).groups] == [
            ursula.owner.principal
        ]
        (budget,) = (await ask("GetBudget", usage.GetBudgetRequest(principal=vera.owner.principal))).budgets
        assert (budget.principal, budget.agent_name) == (vera.owner.principal, "dear")

        listed = {run.id: run for run in (await ask("ListRuns", pb.ListRunsRequest(all_owners=True))).runs}
        for victim in made.victims:
            thing = victim.thing
            for run_id in (thing.done, thing.active, thing.paused):
                run = listed[run_id]
                assert (run.principal, run.user) == (victim.owner.principal, victim.owner.user)
                assert not run.WhichOneof("outcome")
        filtered = pb.ListRunsRequest(
            all_owners=True, principal=vera.owner.principal, status=pb.RUN_STATUS_RUNNING
        )
        assert [run.id for run in (await ask("ListRuns", filtered)).runs] == [vera.thing.active]

        own = pb.CancelRunRequest(run_id=vera.thing.active)
        assert (await _call(made, admin, "CancelRun", own)).code == "NOT_FOUND"
        for run_id in (vera.thing.active, ursula.thing.paused):
            request = pb.CancelRunRequest(run_id=run_id, note="a runaway", all_owners=True)
            ended = (await ask("CancelRun", request)).run
            assert ended.status == pb.RUN_STATUS_CANCELLED
            assert ended.cancelled.reason == event_pb2.CANCEL_REASON_ADMINISTRATOR
        last = None
        async with asyncio.timeout(PATIENCE):
            while (event := await vera.stream.read()) is not grpc.aio.EOF:
                last = event
        assert last is not None
        told = last.run_cancelled
        assert (told.reason, told.cancelled_by, told.note) == (
            event_pb2.CANCEL_REASON_ADMINISTRATOR,
            "admin",
            "a runaway",
        )
        gone = pb.CancelRunRequest(run_id=ghost(vera.thing).active, all_owners=True)
        assert b"RUN_NOT_FOUND" in (await _call(made, admin, "CancelRun", gone)).details


async def _call(made: World, caller: Caller, method: str, request: Message) -> Outcome:
    path, descriptor = METHODS[method]
    return await outcome(made.channel(caller), path, descriptor, request, made.metadata(caller))


async def _own_session(made: World, caller: Caller) -> str:
    if caller.scope not in (Scope.RUN, Scope.ADMIN) or "agents" in (caller.key or {}):
        return ""
    answer = await _call(made, caller, "CreateSession", session_request(AGENT, ""))
    (session,) = [each.session for each in answer.answers if isinstance(each, sessions.CreateSessionResponse)]
    return str(session.id)


async def _attacks(made: World, caller: Caller) -> list[str]:
    """What is wrong with what the caller was told about all victims but itself."""
    own = await _own_session(made, caller)
    victims = [victim for victim in made.victims if not caller.sees(victim.owner)]
    return [each for victim in victims for each in await _attacked(made, caller, victim, own)]


async def _attacked(made: World, caller: Caller, victim: Victim, own: str) -> list[str]:
    """What is wrong with what the caller was told."""
    other, wrong = ghost(victim.thing), []
    renamed = dict(zip(other.names, victim.thing.names, strict=True))
    for method, attacks in ATTACKS.items():
        refused = _forbidden(caller, method)
        pairs = list(zip(attacks(victim.thing, own), attacks(other, own), strict=True))
        if refused:
            del pairs[1:]
        for place, (real, absent) in enumerate(pairs):
            got = await _call(made, caller, method, real)
            expected = await _call(made, caller, method, absent)
            what = f"{caller.name} -> {victim.owner.principal}: {method}[{place}]"
            if got.told({}) != expected.told(renamed):
                wrong.append(f"{what} differs:\n  {got.told({})}\n  {expected.told(renamed)}")
            if refused != (got.code == "PERMISSION_DENIED"):
                wrong.append(f"{what} was answered {got.code}")
            sent = real.SerializeToString()
            wrong += [
                f"{what} tells {mark}: {got.said!r}"
                for mark in victim.marks(caller)
                if mark.encode() in got.said and mark.encode() not in sent
            ]
    return wrong


def _forbidden(caller: Caller, method: str) -> bool:
    """Whether the caller lacks the scope for the method."""
    rule = RULES[METHODS[method][0]]
    assert rule is not None
    ranks = list(Scope)
    return caller.scope is None or ranks.index(caller.scope) < ranks.index(rule.needed)


def _assert_untouched(before: Rows, after: Rows, owners: set[Owner]) -> None:
    """Every row that was there is there, unchanged, and none has come that hangs on one, or is of one of the owners."""
    changed = {key: (row, after.get(key)) for key, row in before.items() if after.get(key) != row}
    assert not changed
    ids = {key[1][0] for key in before if key[0] in ("sessions", "runs", "media")}
    for key in after.keys() - before.keys():
        row = after[key]
        assert not ids & {row.get(name) for name in ("session_id", "run_id", "root_run_id", "media_id")}, key
        assert "user" not in row or Owner(row["principal"], row["user"]) not in owners, key


async def _assert_insiders(made: World) -> None:
    """What was not there for the others is there for all who are the victim."""
    for victim in made.victims:
        for caller in CALLERS:
            if caller.sees(victim.owner):
                thing = victim.thing
                for method in ("GetSession", "GetMedia", "GetRun", "ListMessages", "ListRuns"):
                    request = next(ATTACKS[method](thing, ""))
                    answer = await _call(made, caller, method, request)
                    assert answer.code == "OK", (caller.name, method, answer)
                spent = await _call(made, caller, "QueryUsage", by_session(session_id=thing.session))
                assert thing.session.encode() in spent.said, caller.name


async def _assert_streams(made: World) -> None:
    """The runs under way have heard of nothing, and end as they would have; the one that waits is continued."""
    made.hold.event.set()
    for victim in made.victims:
        events: list[event_pb2.RunEvent] = [*victim.seen]
        async with asyncio.timeout(PATIENCE):
            while (event := await victim.stream.read()) is not grpc.aio.EOF:
                if event.sequence:  # no heartbeat, which a slow machine hears
                    events.append(event)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].run_completed.content == f"I wait: wait {secret(victim.owner)} Done."
        resumed = await _call(made, victim.caller, "ContinueRun", next(_continue(victim.thing, "")))
        (*_, last) = resumed.answers
        assert isinstance(last, event_pb2.RunEvent)
        assert last.HasField("run_completed")
