"""The benchmark, small: every peer really serves, delivers every word, and is in every table. No figure is judged."""

import asyncio
import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from bench.clients import Delivery
from bench.measure import Results, TextLost, deliver, measure
from bench.report import as_json, sessions_as_json, tables
from bench.scenarios import PEERS, Plan, Scenario
from bench.sessions import SessionPlan, measure_sessions, ratios, session_tables
from bench.wire import Received
from bench.workload import Workload, delta

PLAN = Plan(
    rounds=1,
    scenarios=(
        Scenario("burst", Workload(50), runs=1),
        Scenario("paced", Workload(50, rate=500), runs=2, at_once=2, stagger=0.01),
    ),
)


async def test_every_peer_delivers_and_is_in_every_table() -> None:
    results = await measure(PLAN)  # raises TextLost when a peer does not bring the whole text

    assert set(results.samples) == {(peer, scenario.name) for peer in PEERS for scenario in PLAN.scenarios}
    for (peer, _), samples in results.samples.items():
        assert len(samples) == PLAN.rounds
        for sample in samples:
            assert sample.cpu_per_run == pytest.approx(sample.cpu_per_delta * 50)
            assert sample.cpu_per_delta > 0
            seen = (sample.bytes_per_delta, sample.messages_per_delta, sample.first)
            if PEERS[peer].streams:
                assert all(figure is not None and figure > 0 for figure in seen)
                # The text alone has about five bytes a delta: less cannot have come.
                assert (sample.bytes_per_delta or 0) > len(Workload(50).text) / 50
            else:
                assert seen == (None, None, None)
    # What this is about: peers send a message for each delta at least, Dragoman fewer.
    for peer in ("agentos", "stored", "naive"):
        assert (results.samples[peer, "burst"][0].messages_per_delta or 0) > 1
    assert all(reading.rss > 10 * 2**20 for reading in results.done.values())

    _check_tables(results)
    told = json.loads(json.dumps(as_json(PLAN, results)))
    assert {one["peer"] for one in told["samples"]} == set(PEERS)
    assert told["plan"]["scenarios"][0]["work"] == asdict(PLAN.scenarios[0].work)


def _check_tables(results: Results) -> None:
    made = tables(PLAN, results)
    assert len(made) == len(PLAN.scenarios) + 1
    for table in made:
        console = Console(width=200, file=io.StringIO(), record=True)
        console.print(table)
        text = console.export_text()
        assert table.row_count == len(PEERS)
        assert all(peer.label in text for peer in PEERS.values())


@pytest.mark.parametrize(
    "workload", [Workload(0), Workload(1), Workload(2000, 100)], ids=lambda one: f"{one.deltas}"
)
def test_a_prompt_tells_the_whole_workload(workload: Workload) -> None:
    assert Workload.of(workload.prompt) == workload


def test_another_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="names no workload"):
        Workload.of("Say something.")


async def test_sessions_of_every_length_get_turns_and_are_read_whole() -> None:
    plan = SessionPlan(rounds=2, turns=2, lengths=(2, 44), page=10)
    results = await measure_sessions(plan)  # raises TextLost when a turn or a page loses something

    assert {length: len(samples) for length, samples in results.turns.items()} == {2: 2, 44: 2}
    for sample in (each for samples in results.turns.values() for each in samples):
        assert sample.cpu_per_run > 0
        assert 0 < sample.started <= sample.first
    # 44 messages, and two more of each of the five turns.
    assert {order: len(took) for order, took in results.pages.items()} == {"oldest": 6, "newest": 6}
    assert ratios(results, 2, "started") == [1.0, 1.0]
    turns, pages = session_tables(plan, results)
    assert (turns.row_count, pages.row_count) == (2, 2)
    told = json.loads(json.dumps(sessions_as_json(plan, results)))
    assert set(told["turns"]) == {"2", "44"}


async def test_a_peer_that_loses_a_word_is_told_from_one_that_does_not() -> None:
    async def ask(work: Workload) -> Delivery:
        delivery = Delivery()
        for index in range(work.deltas - lost):
            delivery.take(delta(index))
        return delivery

    scenario = Scenario("burst", Workload(10), runs=2)
    lost = 0
    assert len(await deliver(ask, scenario, "peer")) == 2
    lost = 1
    with pytest.raises(TextLost, match="peer, burst: 47 of 53 characters"):
        await deliver(ask, scenario, "peer")


async def test_bytes_are_counted_from_one_port_only_and_from_now_on() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(b"x" * int(line))
        writer.close()
        await writer.wait_closed()

    async def fetch(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], count: int) -> None:
        pair[1].write(b"%d\n" % count)
        assert len(await pair[0].readexactly(count)) == count

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    other = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, other:
        port, other_port = (one.sockets[0].getsockname()[1] for one in (server, other))
        early = await asyncio.open_connection("127.0.0.1", port)
        await fetch(early, 1000)
        received = Received(port)
        late = await asyncio.open_connection("127.0.0.1", port)
        elsewhere = await asyncio.open_connection("127.0.0.1", other_port)
        await fetch(early, 20)
        await fetch(late, 300)
        await fetch(elsewhere, 4000)
        assert received.total() == 320
        for _, writer in (early, late, elsewhere):
            writer.close()
            await writer.wait_closed()
