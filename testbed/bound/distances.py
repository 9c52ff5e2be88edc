"""How far policies are from the bound, week by week, and from what a clairvoyant search attains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from gcos import codec
from gcos.accounting import CostScope
from gcos.errors import GcosError
from testbed.bound.ascent import STEP_COUNT, ascend
from testbed.bound.attained import ROUND_COUNT_MAX, attained
from testbed.bound.booking import LOG_NAME, trajectory_of
from testbed.bound.pricing import Fetches
from testbed.bound.problem import problem_of
from testbed.bound.trajectory import Trajectory
from testbed.evaluate import Pair, RunOrder, instance_of, make_run
from testbed.processes import call_all
from testbed.run_store import RunRecord, run_digest, writable_directory, write_whole
from testbed.sim.cache_modes import CacheMode, caches_named
from testbed.sim.instance import Instance
from testbed.sim.result import Simulate

SCHEMA: Final = "gcos/bound/v1"
#: The search is never worse than these.
FOLLOWED: Final = ("joint", "rule", "plan")


@dataclass(frozen=True, slots=True)
class Bound:
    """What no schedule undercuts, and what one attains that knows everything.

    Attributes:
        digest: Hex digest of everything that decides it.
        bound_usd: No schedule's J of the whole run is below.
        search_usd: J of the schedule that a clairvoyant search found; None: not searched, or no
            search for such an instance (`testbed.bound.attained`).
    """

    digest: str
    bound_usd: float
    search_usd: float | None


@dataclass(frozen=True, slots=True)
class PolicyDistance:
    """A policy in one run.

    Attributes:
        policy: Its name.
        joint_usd: J of the whole run, warm-up and drain included.
        over_bound: J over the bound, never below 1; None: the bound is not above 0.
        over_search: J over what the search attains; None: there is no search.
    """

    policy: str
    joint_usd: float
    over_bound: float | None
    over_search: float | None


@dataclass(frozen=True, slots=True)
class RunDistance:
    """One run: a week and a seed.

    Attributes:
        week_start_s: Begin of the measured window, seconds since the epoch.
        seed: Seed of the workload.
        bound: The bound and the search.
        policies: The policies, in the order in which they were named.
    """

    week_start_s: float
    seed: int
    bound: Bound
    policies: tuple[PolicyDistance, ...]


@dataclass(frozen=True, slots=True)
class Distances:
    """What `gcos bound -o json` prints.

    Attributes:
        schema: Name and version of this form.
        scenario: Name of the scenario.
        cache_mode: Which caches there were.
        cost_scope: What counts as cost.
        carbon_price_usd_per_kg: Lambda.
        data: Directory of the signals; empty: the shipped typical days.
        notes: What a reader must know.
        runs: Every run.
    """

    schema: str
    scenario: str
    cache_mode: str
    cost_scope: CostScope
    carbon_price_usd_per_kg: float
    data: str
    notes: tuple[str, ...]
    runs: tuple[RunDistance, ...]


def distances(
    orders: Sequence[RunOrder],
    simulate: Simulate,
    *,
    code: str,
    has_search: bool,
    job_count: int,
    tell: Callable[[str], None],
) -> Distances:
    """Make what is not kept of all runs, and return how far they are from the bound.

    Args:
        orders: Runs of the policies, pair by pair.
        simulate: The simulator; a function of a module, so that processes find it by name.
        code: Digest of the code of bound and search.
        has_search: Whether to search, which takes most of the time.
        job_count: Processes; each makes bounds, or runs.
        tell: Called with what was done last.
    """
    by_pair: dict[Pair, list[RunOrder]] = {}
    for order in orders:
        by_pair.setdefault(order.pair, []).append(order)
    calls: list[Callable[[], Bound | RunRecord]] = []
    for of_pair in by_pair.values():
        searched_by = simulate if has_search else None
        calls.append(partial(made_bound, of_pair[0], searched_by, code=code))
        calls += [partial(make_run, order, simulate) for order in of_pair]
    made = iter(call_all(calls, job_count=job_count, tell=lambda each: tell(_told(each))))
    notes: dict[str, None] = {}
    runs = []
    for pair, of_pair in by_pair.items():
        bound = next(made)
        assert isinstance(bound, Bound)
        found = []
        for record in (next(made) for _ in of_pair):
            assert isinstance(record, RunRecord)
            notes |= dict.fromkeys(record.notes)
            found.append(_distance(record, bound))
        runs.append(RunDistance(pair.week_start_s, pair.seed, bound, tuple(found)))
    first = orders[0]
    scenario = first.scenario
    return Distances(
        SCHEMA,
        scenario=scenario.name,
        cache_mode=first.cache_mode,
        cost_scope=scenario.cost_scope,
        carbon_price_usd_per_kg=scenario.carbon_price_usd_per_kg,
        data="" if first.data is None else str(first.data),
        notes=tuple(notes),
        runs=tuple(runs),
    )


def _told(made: Bound | RunRecord) -> str:
    if isinstance(made, Bound):
        return f"bound {made.bound_usd:.0f} $"
    return f"{made.policy}, seed {made.seed}"


def made_bound(order: RunOrder, simulate: Simulate | None, *, code: str) -> Bound:
    """Return the bound of an order's instance: the one that was kept, or a new one.

    Args:
        order: Whose instance.
        simulate: Runs the policies from which a search begins; None: there is no search.
        code: Digest of the code of bound and search.
    """
    instance = instance_of(order)
    has_search = simulate is not None
    what = "bound"
    if has_search:
        what, code = "bound+search", f"{code} {order.code}"  # it begins from what policies do
    digest = run_digest(instance, policy=what, cache_mode=order.cache_mode, code=code)
    path = None if order.out is None else order.out / f"bound-{digest[:32]}.json"
    export = None
    if order.export is not None and has_search:
        name = order.export.name.replace(order.policy, "search", 1)
        export = writable_directory(order.export.with_name(name), option="export")
    # An export is written anew: nothing tells whether the files there are of this search.
    if path is not None and path.exists() and export is None:
        try:
            return codec.decode(Bound, path.read_bytes())
        except GcosError as exc:
            hint = "remove the file; it is made again"
            raise GcosError(f"{path}: {exc.message}", hint=hint) from exc
    bound = bound_of(
        instance,
        caches_named(order.cache_mode).mode,
        digest=digest,
        online=() if simulate is None else _online(instance, simulate, order.cache_mode),
        has_search=has_search,
        log=export,
    )
    if path is not None:
        write_whole(path, codec.encode(bound))
    return bound


def _online(instance: Instance, simulate: Simulate, cache_mode: str) -> list[Trajectory]:
    """Return what policies do, where their copies can be followed."""
    found = []
    for policy in () if instance.churn else FOLLOWED:
        with TemporaryDirectory(prefix="gcos-bound-") as directory:
            simulate(instance, policy=policy, cache_mode=cache_mode, log=Path(directory))
            found.append(trajectory_of(instance, Path(directory) / LOG_NAME))
    return found


def bound_of(
    instance: Instance,
    mode: CacheMode = CacheMode.DUAL,
    *,
    digest: str = "",
    online: Sequence[Trajectory] = (),
    has_search: bool = True,
    step_count: int = STEP_COUNT,
    round_count_max: int = ROUND_COUNT_MAX,
    log: Path | None = None,
) -> Bound:
    """Return the bound of an instance, and what a search attains."""
    problem = problem_of(instance, mode)
    ascent = ascend(problem, Fetches(problem), step_count=step_count)
    found = None
    if has_search:
        found = attained(
            instance,
            problem,
            ascent,
            mode=mode,
            online=online,
            round_count_max=round_count_max,
            log=log,
        )
    search_usd = None
    if found is not None:
        price = instance.carbon_price_usd_per_kg
        search_usd = found.charge.joint_usd(instance.scope, price)
    return Bound(digest, bound_usd=ascent.bound_usd, search_usd=search_usd)


def _distance(record: RunRecord, bound: Bound) -> PolicyDistance:
    charge = record.result.whole.charge
    joint_usd = charge.joint_usd(record.cost_scope, record.carbon_price_usd_per_kg)
    return PolicyDistance(
        record.policy,
        joint_usd=joint_usd,
        over_bound=_ratio(joint_usd, bound.bound_usd),
        over_search=None if bound.search_usd is None else _ratio(joint_usd, bound.search_usd),
    )


def _ratio(usd: float, base_usd: float) -> float | None:
    return usd / base_usd if base_usd > 0 else None
