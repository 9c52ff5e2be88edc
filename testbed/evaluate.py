"""Runs policies over weeks and seeds, in parallel processes, and goes on where it was interrupted.

A run is a pair of calendar week and workload seed under a policy: 24 h of warm-up before the week,
168 h measured, then drained. Policies meet the same pairs, so that they can be compared pair by
pair (`testbed.statistics`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from gcos.errors import GcosError, InvalidRequestError, NotFoundError
from gcos.signals import EmissionFactor
from policies.catalogue import policy_named
from testbed.instances import draw, replay
from testbed.processes import call_all
from testbed.run_store import (
    RunRecord,
    is_exported,
    mark_exported,
    run_digest,
    store_run,
    stored_run,
    writable_directory,
)
from testbed.scenarios.records import Scenario
from testbed.sim.cache_modes import caches_named
from testbed.sim.instance import Instance
from testbed.sim.result import Simulate
from testbed.world import World, load_world

#: Seeds of published evaluations are 1, 2, 3, ... in this order; training draws from `TRAIN_SEED`
#: on, so that no policy has seen a published seed.
FIRST_SEED: Final = 1
TRAIN_SEED: Final = 1_000_000
SEED_COUNT_MAX: Final = 10_000

#: Weeks that are evaluated unless told otherwise: those for validation (DESIGN section 7). The
#: ones for the test, from January to August 2024, are named by those who mean them.
FIRST_DAY: Final = date(2023, 1, 2)
LAST_DAY: Final = date(2023, 12, 31)


@dataclass(frozen=True, slots=True)
class Pair:
    """A calendar week and the seed of a workload in it."""

    week_start_s: float
    seed: int


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One run to make, with all that a process of its own needs for it.

    Attributes:
        scenario: What to draw.
        data: Directory of the world; None: the shipped tables.
        pair: Week and seed.
        policy: Name of the policy.
        cache_mode: Which caches there are, and what goes first in them.
        code: Digest of the code.
        replay_log: Name of the job log that replaces the drawn tasks; None: draw them.
        out: Where finished runs are kept; None: nowhere.
        export: Directory for the files of DESIGN section 10; None: none.
    """

    scenario: Scenario
    data: Path | None
    pair: Pair
    policy: str
    cache_mode: str
    code: str
    replay_log: str | None = None
    out: Path | None = None
    export: Path | None = None


def pairs(weeks_s: Sequence[float], seed_count: int) -> tuple[Pair, ...]:
    """Return `seed_count` pairs: the seed in position i meets week i modulo the number of weeks.

    Raises:
        InvalidRequestError: No week, or a number of seeds out of range.
    """
    if not weeks_s:
        raise InvalidRequestError("no week to evaluate", field="weeks")
    if not 1 <= seed_count <= SEED_COUNT_MAX:
        raise InvalidRequestError(
            f"{seed_count} seeds: from 1 to {SEED_COUNT_MAX} can be had",
            field="seeds",
            hint="such as --seeds 24",
        )
    return tuple(Pair(weeks_s[i % len(weeks_s)], FIRST_SEED + i) for i in range(seed_count))


def available_weeks_s(
    scenario: Scenario, world: World, first: date, last: date
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the Mondays, 00:00 UTC, of weeks in [first, last] that can be run, and refusals.

    Raises:
        InvalidRequestError: `last` lies before `first`.
        NotFoundError: There is none; the message tells why the first one is refused.
    """
    if last < first:
        raise InvalidRequestError(f"{last} lies before {first}", field="until")
    weeks = world.weeks(scenario.zones, first, last, factor=EmissionFactor(scenario.signals.carbon))
    refused = tuple(f"week of {day(week.monday_s)}: {week.reason}" for week in weeks.refused)
    if not weeks.mondays_s:
        raise NotFoundError(
            f"no week from {first} to {last} can be run"
            + (f"; {refused[0]}" if refused else ", as no Monday lies there"),
            hint="choose others with --from and --until",
        )
    return weeks.mondays_s, refused


def day(instant_s: float) -> str:
    """Return the UTC day of an instant, such as 2024-01-01."""
    return datetime.fromtimestamp(instant_s, UTC).date().isoformat()


def monday_s(text: str) -> float:
    """Return the begin of the week that `text` names: its Monday, or an ISO week like 2024-W05.

    Raises:
        InvalidRequestError: It is no such day.
    """
    try:
        monday = date.fromisoformat(text)
    except ValueError:
        monday = None
    if monday is None or monday.weekday() != 0:
        raise InvalidRequestError(
            f"{text!r} is no week",
            field="weeks",
            hint="write its Monday, such as 2024-01-01, or its ISO number, such as 2024-W01",
        )
    return datetime(monday.year, monday.month, monday.day, tzinfo=UTC).timestamp()


def run_orders(
    scenario: Scenario,
    *,
    data: Path | None,
    policies: Sequence[str],
    pairs: Sequence[Pair],
    cache_modes: Sequence[str],
    code: str,
    replay_log: str | None = None,
    out: Path | None = None,
    export: Path | None = None,
) -> tuple[RunOrder, ...]:
    """Return the runs of an evaluation, pair by pair, so that an interrupted one holds pairs.

    Those of fewer pairs are the first of those of more.

    Raises:
        InvalidRequestError: There is no such policy, cache mode or eviction, or a policy is there
            twice.
    """
    for policy in policies:
        policy_named(policy, field="policies")
    if not policies or len(set(policies)) < len(policies):
        raise InvalidRequestError(
            "a policy is there twice, or none is", field="policies", hint="name each policy once"
        )
    for cache_mode in cache_modes:
        caches_named(cache_mode)
    return tuple(
        RunOrder(
            scenario,
            data=data,
            pair=pair,
            policy=policy,
            cache_mode=cache_mode,
            code=code,
            replay_log=replay_log,
            out=out,
            export=None if export is None else export / _export_name(policy, cache_mode, pair),
        )
        for pair in pairs
        for cache_mode in cache_modes
        for policy in policies
    )


def _export_name(policy: str, cache_mode: str, pair: Pair) -> str:
    return f"{policy}-{cache_mode}-{day(pair.week_start_s)}-seed{pair.seed}"


def make_run(order: RunOrder, simulate: Simulate) -> RunRecord:
    """Return the run of an order: the one that was kept, or a new one.

    Raises:
        GcosError: The run failed; the message names it.
    """
    try:
        return _made(order, simulate)
    except Exception as exc:
        # Told in one class: what a foreign constructor asks for does not survive the way back
        # from another process.
        raise _failed(order, exc) from exc


def _failed(order: RunOrder, error: Exception) -> GcosError:
    what = (
        f"{order.policy} in the week of {day(order.pair.week_start_s)} "
        f"with seed {order.pair.seed} of {order.scenario.name}"
    )
    if isinstance(error, InvalidRequestError):
        return InvalidRequestError(f"{what}: {error.message}", field=error.field, hint=error.hint)
    if isinstance(error, NotFoundError):
        return NotFoundError(f"{what}: {error.message}", hint=error.hint)
    if isinstance(error, GcosError):
        return GcosError(f"{what}: {error.message}", hint=error.hint)
    return GcosError(f"{what}: {type(error).__name__}: {error}")


def _made(order: RunOrder, simulate: Simulate) -> RunRecord:
    instance = instance_of(order)
    digest = run_digest(instance, policy=order.policy, cache_mode=order.cache_mode, code=order.code)
    is_wanted = order.export is not None and not is_exported(order.export, digest)
    if order.out is not None and not is_wanted:
        kept = stored_run(order.out, digest)
        if kept is not None:
            return kept
    if order.export is not None:
        writable_directory(order.export, option="export")
    result = simulate(instance, policy=order.policy, cache_mode=order.cache_mode, log=order.export)
    record = RunRecord(
        digest,
        scenario=order.scenario.name,
        week_start_s=order.pair.week_start_s,
        seed=order.pair.seed,
        policy=order.policy,
        cache_mode=order.cache_mode,
        cost_scope=instance.scope,
        carbon_price_usd_per_kg=instance.carbon_price_usd_per_kg,
        network_kwh_per_gb=instance.network_kwh_per_gb,
        notes=instance.notes,
        result=result,
    )
    if order.export is not None:
        mark_exported(order.export, record)
    if order.out is not None:
        store_run(order.out, record)
    return record


#: What was drawn last, and for what: policies that follow each other meet the same instance.
_latest: list[tuple[tuple[object, ...], Instance]] = []


def instance_of(order: RunOrder) -> Instance:
    """Return the instance that an order runs."""
    wanted = (order.data, order.replay_log, order.pair, order.scenario)
    if not _latest or _latest[0][0] != wanted:
        _latest[:] = [(wanted, _drawn(order))]
    return _latest[0][1]


def _drawn(order: RunOrder) -> Instance:
    world = _world(order.data)
    week_start_s, seed = dataclasses.astuple(order.pair)
    if order.replay_log is None:
        return draw(order.scenario, world, week_start_s=week_start_s, seed=seed)
    jobs = world.jobs(order.replay_log)
    return replay(order.scenario, world, jobs, week_start_s=week_start_s, seed=seed)


@functools.cache
def _world(directory: Path | None) -> World:
    """Return the world of a directory, whose files each process reads once."""
    return load_world(directory)


def make_runs(
    orders: Sequence[RunOrder],
    simulate: Simulate,
    *,
    job_count: int,
    tell: Callable[[RunRecord], None],
) -> list[RunRecord]:
    """Return the runs of all orders, in their order.

    An error or an interruption stops at once; with `out` in the orders, finished runs are kept.

    Args:
        orders: What to run.
        simulate: The simulator; a function of a module, so that processes find it by name.
        job_count: Processes; 1: this one.
        tell: Called with each run as it ends.

    Raises:
        GcosError: A run failed, or a process died.
    """
    calls = [functools.partial(make_run, order, simulate) for order in orders]
    return call_all(calls, job_count=job_count, tell=tell)
