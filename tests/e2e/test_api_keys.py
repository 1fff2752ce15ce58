"""API keys from the command line to the door: made, used, rotated, taken back; owners and users kept apart."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent
from typer.testing import CliRunner

from dragoman.cli.main import app
from dragoman.client import Dragoman, DragomanError, NotFound
from dragoman.testing.offline import OfflineModel
from dragoman.testing.serving import Serving, serving

PATIENCE = 60.0
"""Seconds. A key that was taken back opens no door after 5; the rest is for a busy machine."""


@pytest.fixture
def keys(database_url: str) -> Callable[..., Any]:
    """`dragoman keys ...` on the test's database; JSON where the command gives it."""

    def run(*arguments: str, fails: str = "") -> Any:
        result = CliRunner().invoke(app, ["keys", *arguments, "--database-url", database_url])
        if fails:
            assert result.exit_code != 0
            assert fails in result.output
            return None
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]

    return run


@asynccontextmanager
async def served(database_url: str) -> AsyncIterator[Serving]:
    model = OfflineModel(delay=0)
    agents = [Agent(name=name, model=model) for name in ("desk", "shop-a")]
    async with serving(*agents, database_url=database_url, auth=("keys",)) as server:
        yield server


async def make(keys: Callable[..., Any], *arguments: str) -> dict[str, Any]:
    (made,) = await asyncio.to_thread(keys, "create", *arguments, "--json")
    return dict(made)


async def reason(call: Any) -> str:
    """OK, or why not."""
    try:
        await call
    except DragomanError as error:
        return error.reason
    return "OK"


async def test_a_keys_life(database_url: str, keys: Callable[..., Any]) -> None:
    async with served(database_url) as server:
        address = server.address
        made = await make(keys, "billing", "--title", "nightly", "--expires", "90d")
        async with Dragoman(address, retry=None) as client:
            assert await reason(client.list_agents()) == "UNAUTHENTICATED"
        async with Dragoman(address, api_key=made["api_key"], retry=None) as client:
            session = await client.create_session("desk")
            assert await client.run("desk", "Hello.", session=session.id).text()
            rotated = await asyncio.to_thread(keys, "rotate", made["id"], "--overlap", "1h", "--json")
            async with Dragoman(address, api_key=rotated[0]["api_key"], retry=None) as other:
                # Of the same principal: what the one has made, the other finds.
                assert (await other.get_session(session.id)).id == session.id
                await asyncio.to_thread(keys, "revoke", made["id"])
                async with asyncio.timeout(PATIENCE):
                    while await reason(client.list_agents()) == "OK":
                        await asyncio.sleep(0.05)
                assert await reason(client.get_session(session.id)) == "UNAUTHENTICATED"
                assert await reason(other.get_session(session.id)) == "OK"
        listed = await asyncio.to_thread(keys, "list", "--all", "--json")
        assert [key["principal"] for key in listed] == ["billing", "billing"]
        assert [key["revoke_time"] is None for key in listed] == [False, True]
        assert not any("api_key" in key or "digest" in key or "salt" in key for key in listed)
        assert len(await asyncio.to_thread(keys, "list", "--json")) == 1
        await asyncio.to_thread(lambda: keys("rotate", made["id"], fails="was revoked"))


async def test_an_open_stream_ends_with_its_key_and_its_run_goes_on(
    database_url: str, keys: Callable[..., Any]
) -> None:
    release = asyncio.Event()

    async def wait() -> str:
        """Waits."""
        await release.wait()
        return "done"

    agent = Agent(name="waiter", model=OfflineModel(delay=0), tools=[wait])
    async with serving(agent, database_url=database_url, auth=("keys",)) as server:
        made, other = await make(keys, "billing"), await make(keys, "billing")
        async with (
            Dragoman(server.address, api_key=made["api_key"], retry=None) as client,
            Dragoman(server.address, api_key=other["api_key"]) as peer,
        ):
            run = client.run("waiter", "wait")

            async def follow() -> None:
                async for event in run:
                    if event.HasField("tool_call_started"):
                        await asyncio.to_thread(keys, "revoke", made["id"])

            with pytest.raises(DragomanError) as ended:
                await follow()
            assert ended.value.reason == "UNAUTHENTICATED"
            release.set()
            assert await peer.attach(run.run_id).text()


async def test_owners_users_and_agents_are_kept_apart(database_url: str, keys: Callable[..., Any]) -> None:
    async with served(database_url) as server:
        web = await make(keys, "web", "--for-users", "--agent", "shop-*")
        billing = await make(keys, "billing")
        reader = await make(keys, "web", "--scope", "read", "--for-users")

        def client(key: dict[str, Any], user: str = "") -> Dragoman:
            return Dragoman(server.address, api_key=key["api_key"], user=user, retry=None)

        async with client(web, "ann") as ann, client(web, "bob") as bob, client(web) as itself:
            assert [agent.name for agent in await ann.list_agents()] == ["shop-a"]
            assert await reason(ann.create_session("desk")) == "AGENT_NOT_FOUND"
            session = await ann.create_session("shop-a")
            assert await ann.run("shop-a", "Hello.", session=session.id).text()
            for stranger in (bob, itself):
                with pytest.raises(NotFound):
                    await stranger.get_session(session.id)
                assert [each async for each in stranger.list_sessions()] == []
            async with client(reader, "ann") as reading:
                assert (await reading.get_session(session.id)).id == session.id
                assert await reason(reading.create_session("shop-a")) == "PERMISSION_DENIED"
                assert [row.model_calls for row in await _usage(reading)] == [1]
        async with client(billing, "ann") as ann:
            assert await reason(ann.list_agents()) == "PERMISSION_DENIED"
        async with client(billing) as stranger:
            with pytest.raises(NotFound):
                await stranger.get_session(session.id)


async def _usage(client: Dragoman) -> list[Any]:
    return [row async for row in client.query_usage()]


async def test_how_much_may_be_done_with_a_key(database_url: str, keys: Callable[..., Any]) -> None:
    """Said when it is made, shown, kept when it is rotated, and enforced."""
    limits = ("--max-runs", "5", "--max-streams", "7", "--rate", "0.001", "--burst", "2")
    made = await make(keys, "batch", *limits, "--budget-day", "50", "--budget-month", "500.50")
    quotas: dict[str, Any] = {"max_runs": 5, "max_streams": 7, "request_rate": 0.001, "request_burst": 2}
    quotas |= {"budget_day": "50", "budget_month": "500.50"}
    assert made["quotas"] == quotas
    rotated = await asyncio.to_thread(keys, "rotate", made["id"], "--json")
    assert rotated[0]["quotas"] == quotas
    listed = await asyncio.to_thread(
        CliRunner().invoke, app, ["keys", "list", "--json", "--database-url", database_url]
    )
    assert [json.loads(line)["quotas"] for line in listed.stdout.splitlines()] == [quotas, quotas]
    plain = await make(keys, "batch")
    assert plain["quotas"] == {}
    async with served(database_url) as server:
        async with Dragoman(server.address, api_key=made["api_key"], retry=None) as client:
            budgets = await client.get_budget()
            assert [(each.principal, each.limit.units, each.limit.nanos) for each in budgets] == [
                ("batch", 50, 0),
                ("batch", 500, 500_000_000),
            ]
            assert await client.list_agents()
            with pytest.raises(DragomanError) as refused:
                await client.list_agents()
            assert (refused.value.reason, refused.value.code.name) == ("RATE_LIMITED", "RESOURCE_EXHAUSTED")
            assert 900 < (refused.value.retry_after or 0) <= 1000
        async with Dragoman(server.address, api_key=plain["api_key"], retry=None) as client:
            assert await client.list_agents()
            assert await client.get_budget() == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", ""), "a principal is named by"),
        (("create", "a", "--scope", "fly"), "--scope is one of read, run, admin"),
        (("create", "a", "--expires", "soon"), "--expires wants a time"),
        (("create", "a", "--expires", "0s"), "--expires must be more than nothing"),
        (("create", "a", "--agent", ""), "--agent wants the name"),
        (("create", "a", "--max-runs", "0"), "--max-runs"),
        (("create", "a", "--rate", "nan"), "--rate"),
        (("create", "a", "--budget-day", "much"), "--budget-day wants an amount"),
        (("create", "a", "--budget-month", "-1"), "--budget-month"),
        (("revoke", "nobody"), "there is no key nobody"),
        (("rotate", "nobody"), "there is no key nobody"),
    ],
)
def test_mistakes(keys: Callable[..., Any], arguments: tuple[str, ...], told: str) -> None:
    keys(*arguments, fails=told)


def test_a_key_is_shown_once_and_alone_on_standard_output(database_url: str) -> None:
    result = CliRunner().invoke(app, ["keys", "create", "billing", "--database-url", database_url])
    assert result.stdout.startswith("dgm_")
    assert len(result.stdout.splitlines()) == 1
    listed = CliRunner().invoke(app, ["keys", "list", "--database-url", database_url])
    assert "billing" in listed.stdout
    assert result.stdout.strip().rpartition("_")[2] not in listed.output


@pytest.mark.parametrize(
    ("settings", "fine"),
    [
        ({}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "auth": "keys"}, True),
        ({"host": "::", "insecure": True}, True),
        ({"host": "example.com"}, False),
        ({"auth": "passwords"}, False),
    ],
)
def test_it_fails_closed(
    settings: dict[str, Any], fine: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pydantic import ValidationError

    from dragoman.config import Settings

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DRAGOMAN_")]:
        monkeypatch.delenv(name)
    if fine:
        Settings(**settings)
    else:
        with pytest.raises(ValidationError):
            Settings(**settings)
