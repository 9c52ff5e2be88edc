"""Runs an instance under a policy over the compiled core.

`run_fast` is for whoever makes many runs: it takes a policy as numbers, and a world whose forecasts
are drawn once for all runs that meet it. Both can be handed to other processes. `simulate_world` is
the same behind the face of `testbed.sim.run`.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import numpy as np

from gcos.accounting import Charge, idle_charge
from gcos.errors import InvalidRequestError
from gcos.system import SystemClock
from policies import migrators
from policies.baselines import joint, rules
from policies.catalogue import Foresight, Policy, policy_named
from policies.evictors import DEFAULT as DEFAULT_EVICTION
from policies.evictors import ELSEWHERE_WEIGHT
from policies.maccs.copy_plan import Settings
from policies.migrators import NoMigrator
from site_agent import copy_planning
from site_agent.migration import Budget
from site_agent.participant import REAUCTION_COUNT_MAX, REAUCTION_USD
from site_agent.schedule import BACKFILL_FACTOR
from testbed.fast import books, layout
from testbed.fast.compiled import CACHE_DIRECTORY
from testbed.fast.core import advance, begin
from testbed.fast.forecasts import Forecasts
from testbed.fast.handle import table_of
from testbed.fast.journal import Journal
from testbed.fast.layout import State
from testbed.fast.learning import LearnedBids, Told, told_of, with_more_told, with_network
from testbed.fast.migration import begin_copy
from testbed.fast.outlooks import Expectations, Outlooks
from testbed.fast.world import lay_out, unsupported
from testbed.learned_bids import task_network
from testbed.planner import learned
from testbed.sim.books import figures
from testbed.sim.cache_modes import CacheMode, caches_named
from testbed.sim.export import write_scenario
from testbed.sim.instance import Instance
from testbed.sim.result import Lookups, RunResult, Totals
from testbed.sim.run import check
from testbed.sim.samples import Sample, instance_of


@dataclass(frozen=True, slots=True)
class FastPolicy:
    """A policy as numbers. The defaults are those of the cores.

    Attributes:
        rule: How sites bid: one of `testbed.fast.layout.RULES`.
        gives_back_late: A waiting run predicted to be late is announced again.
        eviction: Name in `policies.evictors`.
        defer_saving: Least share of J that a later start must save (joint-lookahead).
        defer_late: Highest P(late) of a later start (joint-lookahead).
        late_max: P(late) above which a rule takes an option last.
        backfill_factor: How much longer than predicted a back-filled run is assumed to take.
        reauction_count_max: Attempts of a task that may be given back.
        reauction_usd: Growth of a waiting run's expected penalty from which it is given back.
        elsewhere_weight: Weight of uses elsewhere beside own ones.
        migrator: Which copies are pulled ahead of need: a name in `policies.migrators`.
        regret_ratio: Credit over price of transfer from which a copy is pulled (regret).
        credit_s: Time constant with which credit is forgotten (regret).
        popular_uses: Expected uses from which a copy is pulled (popularity).
        budget: What a site may spend on pulls in a day.
        foresight: What copies are planned from; None: they are not.
        plan: Constants of that plan.
        learned: Learned parts.
        actor_directory: Where their files lie; None: the shipped ones.
        residual_scales: Weight of parts, in place of the one that the file names.
        bids: What corrects the offers of `joint`, in place of the actor of the part `task`.
    """

    rule: str
    gives_back_late: bool = False
    eviction: str = DEFAULT_EVICTION
    defer_saving: float = joint.DEFER_SAVING
    defer_late: float = joint.DEFER_LATE
    late_max: float = rules.LATE_MAX
    backfill_factor: float = BACKFILL_FACTOR
    reauction_count_max: int = REAUCTION_COUNT_MAX
    reauction_usd: float = REAUCTION_USD
    elsewhere_weight: float = ELSEWHERE_WEIGHT
    migrator: str = NoMigrator.name
    regret_ratio: float = migrators.REGRET_RATIO
    credit_s: float = migrators.CREDIT_S
    popular_uses: float = migrators.POPULAR_USES
    budget: Budget = field(default_factory=Budget)
    foresight: Foresight | None = None
    plan: Settings = copy_planning.DEFAULTS
    learned: tuple[str, ...] = ()
    actor_directory: Path | None = None
    residual_scales: tuple[tuple[str, float], ...] = ()
    bids: LearnedBids | None = None

    def with_constants(self, values: Mapping[str, Any]) -> "FastPolicy":
        """Return it with other constants, by name: of its own, or of its plan."""
        plan = {name: value for name, value in values.items() if name in Settings._fields}
        rest = {name: value for name, value in values.items() if name not in plan}
        return replace(self, plan=self.plan._replace(**plan), **rest)


#: Beside the compiled code: all of it is there.
_COMPLETE: Final = "complete"
_NUMBERS: Final = (
    "gives_back_late",
    "defer_saving",
    "defer_late",
    "late_max",
    "backfill_factor",
    "reauction_count_max",
    "reauction_usd",
    "elsewhere_weight",
    "regret_ratio",
    "credit_s",
    "popular_uses",
)


Watch = Callable[[Outlooks, State], None]
"""Sees what is planned from, and the arrays of the run; it changes neither."""


class FastWorld:
    """An instance with its forecasts, drawn as they are asked for and kept for the next run."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.forecasts = Forecasts(instance)

    @cached_property
    def expectations(self) -> Expectations:
        """What submissions tell: the same for all runs."""
        return Expectations(self.instance)


def why_not(instance: Instance, policy: str, cache_mode: str = "dual") -> str | None:
    """Return why the compiled core cannot run an instance under a policy; None: it can.

    Raises:
        InvalidRequestError: There is no such policy, or there are no such caches.
    """
    eviction = caches_named(cache_mode).eviction
    if eviction not in layout.EVICTORS:
        return f"eviction {eviction} is not compiled"
    if _compiled_policy(policy_named(policy)) is None:
        return f"{policy} is not compiled"
    return unsupported(instance)


def fast_policy(name: str) -> FastPolicy:
    """Return the policy of that name in the catalogue.

    Raises:
        InvalidRequestError: There is none, or it is not compiled.
    """
    found = _compiled_policy(policy_named(name))
    if found is None:
        raise InvalidRequestError(
            f"{name} is not compiled", field="policy", hint="use the full simulator"
        )
    return found


def _compiled_policy(policy: Policy) -> FastPolicy | None:
    """Return a policy as numbers, by what its bidder and its migrator call themselves."""
    rule = policy.bidder().actor.partition("/")[0]
    migrator = policy.migrator().name
    if policy.dispatcher is not None or rule not in layout.RULES:
        return None
    if migrator not in layout.MIGRATORS:
        return None
    return FastPolicy(
        rule,
        gives_back_late=policy.gives_back_late,
        migrator=migrator,
        foresight=policy.foresight,
        learned=policy.learned,
    )


def run_fast(
    world: FastWorld,
    policy: FastPolicy,
    *,
    name: str = "",
    mode: CacheMode = CacheMode.DUAL,
    log: TextIO | None = None,
    is_hashed: bool = False,
    watch: Watch | None = None,
    tell: Callable[[Told], None] | None = None,
) -> RunResult:
    """Return what came of a world under a policy, run until every task has ended.

    Args:
        world: The drawn problem.
        policy: Who bids how.
        name: What the result calls the policy; empty: its rule.
        mode: Which caches there are.
        log: Where the lines of `log.jsonl` go; None: nowhere.
        is_hashed: Fill in `trace_hash`, which takes as long as the run itself.
        watch: Looks at the run before each beat of the copy plan.
        tell: Told at the end of the auctions of a policy that explores.

    Raises:
        InvalidRequestError: The compiled core cannot run this.
    """
    assert tell is None or policy.bids is not None, "only who learns has something to tell"
    instance = world.instance
    problem = unsupported(instance)
    if problem is not None:
        raise InvalidRequestError(problem, field="instance", hint="use the full simulator")
    clock = SystemClock()
    begun_s = clock.protocol_s()
    state = lay_out(instance, mode)
    _configure(state, policy)
    bids = policy.bids or _shipped_bids(policy)
    if bids is not None:
        state = with_network(state, bids, is_told=tell is not None)
    journal = Journal(instance, log, is_hashed=is_hashed)
    outlooks = None
    if policy.foresight is not None:
        correction = learned(
            policy.learned,
            directory=policy.actor_directory,
            scales=dict(policy.residual_scales),
        )
        outlooks = Outlooks(world.expectations, policy.foresight, policy.plan, correction)
    state = _run(world, state, journal, outlooks, watch)
    top = state.g[0]
    if tell is not None:
        tell(told_of(state))
    return RunResult(
        policy=name or policy.rule,
        cache_mode=mode.value,
        whole=_totals(instance, state, journal, books.WHOLE),
        measured=_totals(instance, state, journal, books.MEASURED),
        event_count=int(top["event_count"]),
        wall_s=clock.protocol_s() - begun_s,
        trace_hash=journal.trace_hash,
        core="fast",
    )


def simulate_world(
    world: FastWorld, *, policy: str, cache_mode: str, log: Path | None
) -> RunResult:
    """Return what came of a world under a policy, as `testbed.sim.run.simulate` does.

    Args:
        world: The drawn problem.
        policy: Name in `policies.catalogue`.
        cache_mode: Name of caches, as `testbed.sim.cache_modes.caches_named` takes it.
        log: Directory for the three files of DESIGN section 10; None: none.

    Raises:
        InvalidRequestError: As `testbed.sim.run.simulate`, or the compiled core cannot run this.
    """
    caches = caches_named(cache_mode)
    chosen = replace(fast_policy(policy), eviction=caches.eviction)
    check(world.instance)
    with contextlib.ExitStack() as stack:
        lines: TextIO | None = None
        if log is not None:
            write_scenario(world.instance, caches.mode, log / "scenario.json")
            lines = stack.enter_context((log / "log.jsonl").open("w", encoding="utf-8"))
        result = run_fast(world, chosen, name=policy, mode=caches.mode, log=lines, is_hashed=True)
        result = replace(result, cache_mode=cache_mode)
    if log is not None:
        reported: dict[str, object] = {
            **figures(result.whole.charge, result.whole.miss_count),
            "measured": figures(result.measured.charge, result.measured.miss_count),
        }
        (log / "reported.json").write_bytes(msgspec.json.encode(reported))
    return result


def is_compiled() -> bool:
    """Tell whether this version's code is compiled already."""
    return (CACHE_DIRECTORY / _COMPLETE).exists()


def compile_ahead() -> None:
    """Compile everything, by running a small world."""
    policy = FastPolicy("joint", foresight=Foresight.TRUE)
    run_fast(FastWorld(instance_of(Sample(task_count=10))), policy)
    with contextlib.suppress(OSError):  # where nothing can be kept
        (CACHE_DIRECTORY / _COMPLETE).touch()


def _shipped_bids(policy: FastPolicy) -> LearnedBids | None:
    found = task_network(
        policy.learned, directory=policy.actor_directory, scales=dict(policy.residual_scales)
    )
    return None if found is None else LearnedBids(found[0], scale=found[1])


def _configure(state: State, policy: FastPolicy) -> None:
    top = state.g[0]
    top["rule"] = layout.RULES.index(policy.rule)
    top["evictor"] = layout.EVICTORS.index(policy.eviction)
    top["migrator"] = layout.MIGRATORS.index(policy.migrator)
    top["plans_copies"] = policy.foresight is not None
    for name in _NUMBERS:
        top[name] = getattr(policy, name)
    top["budget_bytes"] = policy.budget.bytes_a_day
    top["budget_usd"] = policy.budget.usd_a_day
    top["budget_gco2"] = policy.budget.gco2_a_day


def _run(
    world: FastWorld,
    state: State,
    journal: Journal,
    outlooks: Outlooks | None,
    watch: Watch | None,
) -> State:
    """Run to the end, with what the compiled loop asks for; return the arrays as they are then."""
    world.forecasts.issue(state, world.instance.start_s)
    table = table_of(state)
    begin(table)
    while (stop := advance(table)) != layout.DONE:
        if stop == layout.HOUR:
            world.forecasts.issue(state, float(state.g[0]["now_s"]))
        elif stop == layout.PLAN:
            assert outlooks is not None
            if watch is not None:
                watch(outlooks, state)
            for site, artifact in outlooks.copies(state):
                begin_copy(table, site, artifact)
        elif stop == layout.LOG_FULL:
            journal.take(state)
        elif stop == layout.TOLD_FULL:
            state = with_more_told(state)
            table = table_of(state)
        elif stop == layout.HEAP_FULL:
            state = state._replace(heap=np.concatenate((state.heap, np.zeros_like(state.heap))))
            table = table_of(state)
        else:
            _fail(world.instance, state, stop)
    journal.take(state)
    assert state.g[0]["left_count"] == 0, "a task was lost (I1)"
    return state


def _fail(instance: Instance, state: State, stop: int) -> None:
    """Fail as the simulator does."""
    if stop == layout.FAILED_REJECTED:
        task = instance.tasks[int(state.g[0]["failed_task"])]
        raise AssertionError(f"{task.task_id} ends REJECTED: no site can run it")
    if stop == layout.FAILED_IN_USE:
        raise AssertionError("a site lost a copy that is in use")
    raise AssertionError("there are more runs or transfers under way than slots")


def _totals(instance: Instance, state: State, journal: Journal, account: int) -> Totals:
    sums: list[float] = state.sums[account].sum(axis=1).tolist()
    waits = journal.waits_s(is_measured=account == books.MEASURED)
    has_waits = len(waits) > 0
    hits = state.lookups[account]
    return Totals(
        charge=_charge(sums),
        idle=_idle(instance, state, account, sums),
        task_count=round(sums[books.TASK_COUNT]),
        miss_count=round(sums[books.MISS_COUNT]),
        wait_mean_s=float(waits.mean()) if has_waits else 0.0,
        wait_p95_s=float(np.quantile(waits, 0.95)) if has_waits else 0.0,
        models=Lookups(hit_count=int(hits[0, 1]), miss_count=int(hits[0, 0])),
        data_sets=Lookups(hit_count=int(hits[1, 1]), miss_count=int(hits[1, 0])),
    )


def _charge(sums: list[float]) -> Charge:
    return Charge(
        energy_kwh=sums[books.ENERGY_KWH],
        energy_usd=sums[books.ENERGY_USD],
        gpu_usd=sums[books.GPU_USD],
        transfer_usd=sums[books.TRANSFER_USD],
        storage_usd=sums[books.STORAGE_USD],
        penalty_usd=sums[books.PENALTY_USD],
        compute_gco2=sums[books.COMPUTE_GCO2],
        network_gco2=sums[books.NETWORK_GCO2],
        transfer_bytes=round(sums[books.TRANSFER_BYTES]),
    )


def _idle(instance: Instance, state: State, account: int, sums: list[float]) -> Charge:
    """Return what GPUs draw while they run nothing: all of them idle, less the busy ones."""
    last_s = float(state.g[0]["last_end_s"])
    begin_s, end_s = instance.start_s, last_s
    if account == books.MEASURED:
        begin_s, end_s = instance.measured_s[0], min(instance.measured_s[1], last_s)
    every = Charge.sum(
        idle_charge(
            gpu_count=pool.gpu_count,
            idle_kw=pool.idle_kw,
            pue=site.pue,
            price=instance.price[site.site_id],
            carbon=instance.carbon[site.site_id],
            start_s=begin_s,
            end_s=max(begin_s, end_s),
        )
        for site in instance.sites
        for pool in site.pools
    )
    return Charge(
        energy_kwh=every.energy_kwh - sums[books.BUSY_KWH],
        energy_usd=every.energy_usd - sums[books.BUSY_USD],
        compute_gco2=every.compute_gco2 - sums[books.BUSY_GCO2],
    )
