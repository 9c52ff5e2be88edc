"""What one negotiation costs over a link, beside the sum of its one-way delays.

Tasks are submitted at one site and may run at another alone. Each round measures, one after the
other: the links, by TCP echo over the lanes that the agents' messages take; fdatasync; and one
negotiation. A negotiation is measured twice:

- From its announcement to the accepted award, as the origin logs it (`award_accepted`). Its limit
  is two round trips to the other site and two fdatasync: the choice and the acceptance. The choice
  is written while the award flies, so that only the second is waited for.
- From outside, from the acknowledgement of the task to the state LEASED as a client sees it. Before
  the announcement the origin has asked predictor and broker, a round trip each; after the award it
  has written the lease, which is a third fdatasync, and told the client.

Both are written out in ARCHITECTURE.md. Beside them stands the *floor*, what the same takes with
nothing of ours in it: two bare questions over a long gRPC call on the same link, and two commits of
a row of a task's size to a journal of its own.

What waits rests: a negotiation comes to each of its commits after a flight over the link. So
fdatasync and the floor are measured after a rest of one round trip, too. Right after one another
fdatasync may take ten times as long, where a disk grants so many a second (4.0 against 0.4 ms), and
a question after another one half as long, as the processor still has all of it at hand.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Final

from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gcos.client import Client
from gcos.errors import UnavailableError, WrongStateError
from gcos.ids import TaskId
from gcos.rpc.channels import Channels
from gcos.store import Append, Put, SqliteStore, Store
from gcos.system import SystemClock
from testbed.wan.cluster import Testbed
from testbed.wan.control import asked_reading, measure, probing
from testbed.wan.records import BROKER, PREDICTOR

_SYNC_COUNT: Final = 3
_SYNC_BYTES: Final = 4096
_CALL_COUNT: Final = 3
#: What a task's record and the event beside it take in a journal.
_RECORD_BYTES: Final = 2600
_EVENT_BYTES: Final = 1400
#: Commits until a journal is written over from its beginning (`testbed.bench.negotiation`).
_SETTLING_COUNT: Final = 250
_WAIT_S: Final = 60.0
_STEPS: Final = ("announce_s", "judge_s", "award_s")

_now_s = SystemClock().protocol_s


@dataclass(frozen=True, slots=True)
class NegotiationReading:
    """Negotiations between two sites; all durations are medians over the rounds.

    Attributes:
        origin: Site that owns the tasks.
        winner: The only site that may run them.
        asked_rtt_s: Round-trip time between the two that was asked of the emulator.
        rtt_s: The same as measured, round by round.
        fdatasync_s: One fdatasync of a block that is there already, as a settled journal is, after
            a rest.
        announce_s: From the announcement until the bids are in.
        judge_s: From then until the award is sent: the offers are judged.
        award_s: From then until the winner's acceptance has arrived.
        p50_s: From the announcement to the accepted award.
        limit_s: Two round trips and two fdatasync.
        over_s: By how much a negotiation exceeds the limit of its own round.
        calls_over_s: By how much two bare questions over a long gRPC call exceed two round trips of
            their own round.
        commits_over_s: By how much two commits of a journal exceed two fdatasync of their round.
        outside_s: From the acknowledgement of the task to its lease, as a client sees it.
        outside_limit_s: Four round trips, two of them shorter or longer, and three fdatasync.
        outside_over_s: By how much that is exceeded, round by round.
        count: How many rounds there were.
    """

    origin: str
    winner: str
    asked_rtt_s: float
    rtt_s: float
    fdatasync_s: float
    announce_s: float
    judge_s: float
    award_s: float
    p50_s: float
    limit_s: float
    over_s: float
    calls_over_s: float
    commits_over_s: float
    outside_s: float
    outside_limit_s: float
    outside_over_s: float
    count: int

    @property
    def floor_over_s(self) -> float:
        """By how much the same with nothing of ours in it exceeds the limit."""
        return self.calls_over_s + self.commits_over_s


@dataclass(frozen=True, slots=True)
class _Round:
    rtt_s: float
    call_s: float
    service_rtt_s: float
    fdatasync_s: float
    commit_s: float
    outside_s: float
    task_id: TaskId


async def negotiate(
    testbed: Testbed, origin: str, winner: str, *, count: int
) -> NegotiationReading:
    """Measure `count` negotiations, one after the other.

    Raises:
        GcosError: A site does not answer, or a link is cut.
        TimeoutError: A task did not get a lease in time.
    """
    config = testbed.config
    process = testbed.process(origin)

    async def rtt_s(place: str) -> float:
        asked = asked_reading(config, config.changes, origin, place)
        found = (await measure(config, testbed.token, asked, flow_s=0.0)).rtt_s
        if found is None:
            raise UnavailableError(
                f"nothing passes between {origin} and {place}", hint="gcos testbed heal"
            )
        return found

    async def call_s() -> float:
        target = testbed.process(winner).address
        async with probing(config, testbed.token, origin, winner, target) as address:
            return await _bare_call_s(address, testbed.token)

    rest_s = asked_reading(config, config.changes, origin, winner).asked_rtt_s
    rounds = []
    async with (
        Client.connect(process.address, Path(config.token_file), environ={}) as client,
        _journal(testbed.directory) as journal,
    ):
        # Not in each round, as each takes some twenty round trips.
        service = await rtt_s(PREDICTOR) + await rtt_s(BROKER)
        for number in range(count):
            rtt, call = await rtt_s(winner), await call_s()
            sync_s = await fdatasync_s(testbed.directory, rest_s=rest_s)
            commit = await _commit_s(journal, rest_s=rest_s)
            task_id, outside_s = await _one(client, winner, number)
            rounds.append(_Round(rtt, call, service, sync_s, commit, outside_s, task_id))
    return _reading(
        rounds,
        _logged(Path(process.log)),
        origin=origin,
        winner=winner,
        asked_rtt_s=asked_reading(config, config.changes, origin, winner).asked_rtt_s,
    )


def _reading(
    rounds: list[_Round],
    logged: dict[TaskId, dict[str, float]],
    *,
    origin: str,
    winner: str,
    asked_rtt_s: float,
) -> NegotiationReading:
    steps = [logged[each.task_id] for each in rounds if each.task_id in logged]
    if len(steps) < len(rounds):
        raise WrongStateError(
            f"the log of {origin} tells of {len(steps)} of {len(rounds)} awards",
            hint="agents must log at level info, and awards must not be sent twice",
        )
    took = [sum(each[name] for name in _STEPS) for each in steps]
    limits = [2 * each.rtt_s + 2 * each.fdatasync_s for each in rounds]
    outside = [
        limit + each.service_rtt_s + each.fdatasync_s
        for limit, each in zip(limits, rounds, strict=True)
    ]
    return NegotiationReading(
        origin,
        winner,
        asked_rtt_s=asked_rtt_s,
        rtt_s=median(each.rtt_s for each in rounds),
        fdatasync_s=median(each.fdatasync_s for each in rounds),
        announce_s=median(each["announce_s"] for each in steps),
        judge_s=median(each["judge_s"] for each in steps),
        award_s=median(each["award_s"] for each in steps),
        p50_s=median(took),
        limit_s=median(limits),
        over_s=median(ours - limit for ours, limit in zip(took, limits, strict=True)),
        calls_over_s=median(2 * (each.call_s - each.rtt_s) for each in rounds),
        commits_over_s=median(2 * (each.commit_s - each.fdatasync_s) for each in rounds),
        outside_s=median(each.outside_s for each in rounds),
        outside_limit_s=median(outside),
        outside_over_s=median(
            each.outside_s - limit for each, limit in zip(rounds, outside, strict=True)
        ),
        count=len(rounds),
    )


async def _bare_call_s(address: str, token: str) -> float:
    """Return the median time of a question to the reflection service, once its call is open."""
    times: list[float] = []
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    async with Channels(token) as channels, asyncio.timeout(_WAIT_S):
        stub = reflection_pb2_grpc.ServerReflectionStub(channels.get(address))
        call = stub.ServerReflectionInfo()
        for _ in range(1 + _CALL_COUNT):
            began_s = _now_s()
            await call.write(asked)
            await call.read()
            times.append(_now_s() - began_s)
        await call.done_writing()
    return median(times[1:])


@contextlib.asynccontextmanager
async def _journal(directory: Path) -> AsyncIterator[Store]:
    """Give a journal as an agent has it, written over already, with nothing else to do."""
    with TemporaryDirectory(dir=directory) as place:
        async with SqliteStore.open(Path(place) / "journal.db") as journal:
            for _ in range(_SETTLING_COUNT):
                await _commit(journal)
            yield journal


async def _commit(journal: Store) -> None:
    task, event = bytes(_RECORD_BYTES), bytes(_EVENT_BYTES)
    await journal.commit([Put("tasks", "t", task), Append("events", "t", event)])


async def _commit_s(journal: Store, *, rest_s: float) -> float:
    """Return the median time of a commit after a rest."""
    times: list[float] = []
    for _ in range(_SYNC_COUNT):
        await asyncio.sleep(rest_s)
        began_s = _now_s()
        await _commit(journal)
        times.append(_now_s() - began_s)
    return median(times)


async def _one(client: Client, winner: str, number: int) -> tuple[TaskId, float]:
    """Return a task that was negotiated for, and how long that took from outside."""
    document = {
        "apiVersion": "gcos/v1",
        "kind": "Task",
        "name": f"negotiation {number}",
        "run": ["true"],
        "placement": {"allow": [winner]},
    }
    taken = await client.submit(json.dumps(document))
    began_s = _now_s()
    await _leased(client, taken.task.task_id)
    took_s = _now_s() - began_s
    await client.wait(taken.task.task_id, timeout_s=_WAIT_S)
    return taken.task.task_id, took_s


def _logged(log: Path) -> dict[TaskId, dict[str, float]]:
    """Return the steps of the negotiations that an agent has logged."""
    found = {}
    for line in log.read_bytes().splitlines():
        if b'"award_accepted"' in line:
            event = json.loads(line)
            found[TaskId(event["task_id"])] = {name: float(event[name]) for name in _STEPS}
    return found


async def _leased(client: Client, task_id: TaskId) -> None:
    async for task in client.watch(task_id, timeout_s=_WAIT_S):
        if task.state.is_leased or task.state.is_terminal:
            return
    raise TimeoutError(f"{task_id} got no lease within {_WAIT_S:.0f} s")


async def fdatasync_s(directory: Path, *, rest_s: float) -> float:
    """Return the median time of overwriting 4 KiB and fdatasync in a directory, after a rest."""
    times: list[float] = []
    with NamedTemporaryFile(dir=directory, buffering=0) as file:
        file.write(bytes(_SYNC_BYTES))
        os.fsync(file.fileno())
        for _ in range(_SYNC_COUNT):
            await asyncio.sleep(rest_s)
            began_s = _now_s()
            os.pwrite(file.fileno(), bytes(_SYNC_BYTES), 0)
            os.fdatasync(file.fileno())
            times.append(_now_s() - began_s)
    return median(times)
