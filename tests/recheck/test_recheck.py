"""The checker of exports: totals computed by hand, and planted faults that it must name."""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.recheck.recheck import (
    MalformedExportError,
    Rule,
    StepSeries,
    Totals,
    Verdict,
    main,
    parse_export,
    recheck,
)

CHECKER = Path(__file__).with_name("recheck.py")
MONEY = [key for key in Totals.__dataclass_fields__ if key != "misses"]

# The world: two data centers and an upstream. Every number of the log below is a round one, so that
# the totals can be followed with pencil and paper.
A, B, UP = 0, 1, 2
SCENARIO: dict[str, Any] = {
    "hour0": "2024-01-01T00:00:00Z",
    "lam_usd_per_kg": 0.2,
    "kappa_kwh_per_gb": 0.01,
    "late_cap_h": 2.0,
    "measure_h": [1.0, 5.25],
    "sites": [
        {
            "name": "a",
            "gpus": 4,
            "speed": 1.0,
            "kw_active": 1.0,
            "kw_idle": 0.25,
            "pue": 1.2,
            "usd_per_gpu_h": 2.0,
            "cap_model_gb": 10.0,
            "cap_data_gb": 10.0,
            "storage_usd_per_gb_h": 0.001,
            "price_usd_per_kwh": [0.10, 0.20, -0.05, 0.30],
            "ci_kg_per_kwh": [0.5, 0.4, 0.3, 0.2],
        },
        {
            "name": "b",
            "gpus": 2,
            "speed": 0.5,
            "kw_active": 0.5,
            "kw_idle": 0.1,
            "pue": 1.5,
            "usd_per_gpu_h": 1.0,
            "cap_model_gb": 8.0,
            "cap_data_gb": 6.0,
            "storage_usd_per_gb_h": 0.002,
            "price_usd_per_kwh": [0.05, 0.10, 0.20, 0.40, 0.10],
            "ci_kg_per_kwh": [0.1, 0.2, 0.6, 0.8],
        },
        {
            "name": "up",
            "gpus": 0,
            "speed": 0.0,
            "kw_active": 0.0,
            "kw_idle": 0.0,
            "pue": 1.0,
            "usd_per_gpu_h": 0.0,
            "cap_model_gb": 0.0,
            "cap_data_gb": 0.0,
            "storage_usd_per_gb_h": 0.0,
            "price_usd_per_kwh": [0.0],
            "ci_kg_per_kwh": [0.9, 0.7, 0.5, 0.3],
        },
    ],
    "egress_usd_per_gb": [[None, 0.10, 0.20], [0.05, None, 0.30], [0.02, 0.04, None]],
    "gb_per_h": [[None, 10.0, 20.0], [8.0, None, 40.0], [16.0, 4.0, None]],
    "artifacts": [
        {"id": "m1", "kind": "model", "gb": 4.0, "home": UP},
        {"id": "m2", "kind": "model", "gb": 6.0, "home": A},
        {"id": "d1", "kind": "data", "gb": 2.0, "home": UP},
        {"id": "d2", "kind": "data", "gb": 8.0, "home": UP},
    ],
    "tasks": [
        # In time; arrives before the measured window.
        {"id": "t1", "model": "m1", "data": "d1", "gpus": 2, "work_h": 1.0, "arrival": 0.25,
         "deadline": 3.0, "p0": 3.0, "p1": 4.0},
        # Ends 0.5e-9 h past its deadline: no miss.
        {"id": "t2", "model": "m2", "data": "d1", "gpus": 2, "work_h": 1.5, "arrival": 1.0,
         "deadline": 2.5 - 5e-10, "p0": 1.0, "p1": 1.0},
        # Ends 1e-7 h past its deadline: a miss.
        {"id": "t3", "model": "m1", "data": "d2", "gpus": 1, "work_h": 0.75, "arrival": 1.5,
         "deadline": 5.5 - 1e-7, "p0": 2.0, "p1": 10.0},
        # Ends 2.1 h past its deadline, of which 2 h count.
        {"id": "t4", "model": "m2", "data": "d1", "gpus": 2, "work_h": 0.25, "arrival": 3.0,
         "deadline": 4.5, "p0": 1.0, "p1": 0.5},
    ],
}  # fmt: skip

M1_TO_A, D1_TO_A, T1, T2, D2_TO_B, M1_TO_B, T3_ABORT, T3, D1_TO_B, M1_LEAVES_B, M2_TO_B = range(11)
D1_LEAVES_A, T4 = 11, 12


def sent(
    artifact: str, src: int, dst: int, t0: float, t1: float, task: str | None, stored: bool = True
) -> dict[str, Any]:
    return {
        "e": "transfer",
        "t0": t0,
        "t1": t1,
        "src": src,
        "dst": dst,
        "artifact": artifact,
        "task": task,
        "stored": stored,
    }


def ran(task: str, site: int, t0: float, t1: float, e: str = "run") -> dict[str, Any]:
    return {"e": e, "task": task, "site": site, "t0": t0, "t1": t1}


def evicted(artifact: str, site: int, t: float) -> dict[str, Any]:
    return {"e": "evict", "t": t, "site": site, "artifact": artifact}


LOG: list[dict[str, Any]] = [
    sent("m1", UP, A, 0.25, 0.5, "t1"),  # 4 GB at 16 GB/h
    sent("d1", UP, A, 0.25, 0.75, "t1"),  # 2 GB at 16 GB/h would take 0.125 h alone
    ran("t1", A, 0.75, 1.75),
    ran("t2", A, 1.0, 2.5),  # m2 is at home; 4 of 4 GPUs until 1.75
    sent("d2", UP, B, 1.5, 3.5, "t3", stored=False),  # 8 GB at 4 GB/h; larger than the cache
    sent("m1", A, B, 1.6, 2.0, "t3"),  # 4 GB at 10 GB/h
    ran("t3", B, 3.5, 4.0, "abort"),
    ran("t3", B, 4.0, 5.5),  # 0.75 h of work at half speed
    sent("d1", A, B, 5.0, 5.5, None),  # a prefetch, 2 GB at 10 GB/h
    evicted("m1", B, 5.5),
    sent("m2", A, B, 5.5, 6.1, "t4"),  # 6 GB at 10 GB/h, into the room of m1
    evicted("d1", A, 5.75),
    ran("t4", B, 6.1, 6.6),
]

#: By hand. a: 1.2 kW a GPU, b: 0.75 kW a GPU. Integrals of price over each run:
#: t1 0.25 x 0.1 + 0.75 x 0.2 = 0.175; t2 1 x 0.2 - 0.5 x 0.05 = 0.175; abort 0.5 x 0.4 = 0.2;
#: t3 1.5 x 0.1 = 0.15 and t4 0.5 x 0.1 = 0.05, both with the last value.
#: Of intensity: t1 0.25 x 0.5 + 0.75 x 0.4 = 0.425; t2 0.4 + 0.5 x 0.3 = 0.55; abort 0.5 x 0.8;
#: t3 1.5 x 0.8 = 1.2; t4 0.5 x 0.8 = 0.4.
#: Half the sum of mean intensities: m1>a and d1>a (0.9 + 0.5) / 2 = 0.7;
#: d2>b: up (0.5 x 0.7 + 0.5 + 0.5 x 0.3) / 2 = 0.5, b (0.5 x 0.2 + 0.6 + 0.5 x 0.8) / 2 = 0.55,
#: so 0.525; m1>b (0.4 + 0.2) / 2 = 0.3; d1>b and m2>b (0.2 + 0.8) / 2 = 0.5.
#: Measured: tasks t2, t3, t4; transfers d2>b, m1>b, d1>b.
REPORTED: dict[str, Any] = {
    "energy_usd": 0.42 + 0.42 + 0.15 + 0.1125 + 0.075,
    "gpu_usd": 4.0 + 6.0 + 0.5 + 1.5 + 1.0,
    "transfer_usd": 0.08 + 0.04 + 0.32 + 0.40 + 0.20 + 0.60,
    # m1@a until the last run's end at 6.6; d1@a until 5.75; m1@b until 5.5; d1@b, m2@b until 6.6.
    "storage_usd": 0.0254 + 0.011 + 0.0312 + 0.0064 + 0.0132,
    "penalty_usd": (2.0 + 10 * 1e-7) + (1.0 + 0.5 * 2.0),
    "kg_run": 1.02 + 1.32 + 0.3 + 0.9 + 0.6,
    "kg_transfer": 0.028 + 0.014 + 0.042 + 0.012 + 0.010 + 0.030,
    "misses": 2,
    "gb_moved": 26.0,
    "measured": {
        "energy_usd": 0.42 + 0.15 + 0.1125 + 0.075,
        "gpu_usd": 6.0 + 0.5 + 1.5 + 1.0,
        "transfer_usd": 0.32 + 0.40 + 0.20,
        "storage_usd": 0.0312 + 0.0064,
        "penalty_usd": (2.0 + 10 * 1e-7) + (1.0 + 0.5 * 2.0),
        "kg_run": 1.32 + 0.3 + 0.9 + 0.6,
        "kg_transfer": 0.042 + 0.012 + 0.010,
        "misses": 2,
        "gb_moved": 14.0,
    },
}


@dataclass
class Draft:
    """An export that a test may spoil."""

    scenario: dict[str, Any]
    log: list[dict[str, Any]]
    reported: dict[str, Any]

    def task(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = self.scenario["tasks"][index]
        return found

    def site(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = self.scenario["sites"][index]
        return found

    def texts(self) -> tuple[str, str, str]:
        log = "".join(json.dumps(event) + "\n" for event in self.log)
        return json.dumps(self.scenario), log, json.dumps(self.reported)

    def verdict(self) -> Verdict:
        return recheck(parse_export(*self.texts()))

    def broken(self) -> set[Rule]:
        return {breach.rule for breach in self.verdict().breaches}

    def broken_but_for_totals(self) -> set[Rule]:
        return self.broken() - {Rule.TOTAL}

    def report_what_is_found(self) -> None:
        verdict = self.verdict()
        self.reported = {**verdict.totals.as_json(), "measured": verdict.measured.as_json()}


@pytest.fixture
def draft() -> Draft:
    return good()


def good() -> Draft:
    return Draft(*copy.deepcopy((SCENARIO, LOG, REPORTED)))


def test_totals_are_those_computed_by_hand(draft: Draft) -> None:
    verdict = draft.verdict()
    assert verdict.breaches == ()
    measured = REPORTED["measured"]
    assert verdict.totals.as_json() == pytest.approx({k: REPORTED[k] for k in measured}, rel=1e-12)
    assert verdict.measured.as_json() == pytest.approx(measured, rel=1e-12)


Spoil = Callable[[Draft], object]


def edit(index: int, **values: Any) -> Spoil:
    return lambda draft: draft.log[index].update(values)


def edit_task(index: int, **values: Any) -> Spoil:
    return lambda draft: draft.task(index).update(values)


def edit_site(index: int, **values: Any) -> Spoil:
    return lambda draft: draft.site(index).update(values)


def drop(index: int) -> Spoil:
    return lambda draft: draft.log.pop(index)


def add(event: dict[str, Any]) -> Spoil:
    return lambda draft: draft.log.append(event)


def both(*spoils: Spoil) -> Spoil:
    return lambda draft: [spoil(draft) for spoil in spoils]


FOUR_GPUS_THEN_T2 = both(edit_task(0, gpus=4), edit(T2, t0=1.75, t1=3.25))

BROKEN_RULES: dict[str, tuple[Spoil, Rule]] = {
    "a task never runs": (drop(T2), Rule.ONCE),
    "a task runs twice": (add(ran("t2", A, 2.5, 4.0)), Rule.ONCE),
    "a task runs twice at once": (add(ran("t3", B, 4.0, 5.5)), Rule.ONCE),
    "a task is only aborted": (edit(T2, e="abort"), Rule.ONCE),
    "an attempt overlaps another": (
        both(edit(T3_ABORT, t1=4.00001), edit_task(2, gpus=1)),
        Rule.OVERLAP,
    ),
    "an attempt follows the run": (add(ran("t1", A, 3.0, 3.1, "abort")), Rule.OVERLAP),
    "a run starts long before arrival": (edit_task(1, arrival=2.0), Rule.ARRIVAL),
    "a run starts just before arrival": (edit_task(1, arrival=1.00001), Rule.ARRIVAL),
    "an attempt starts before arrival": (edit_task(2, arrival=3.75), Rule.ARRIVAL),
    "a run is short": (edit(T2, t1=2.4), Rule.LENGTH),
    "a run is a little short": (edit(T2, t1=2.5 - 1e-5), Rule.LENGTH),
    "a run is a little long": (edit(T2, t1=2.5 + 1e-5), Rule.LENGTH),
    "a run ignores the site's speed": (edit(T3, t1=4.75), Rule.LENGTH),
    "a run multiplies by speed": (edit(T3, t1=4.375), Rule.LENGTH),
    "GPUs are exceeded": (edit_site(A, gpus=3), Rule.GPUS),
    "a task wants more GPUs than there are": (edit_task(3, gpus=3), Rule.GPUS),
    "GPUs are exceeded for a moment": (
        both(FOUR_GPUS_THEN_T2, edit(T2, t0=1.75 - 1e-5, t1=3.25 - 1e-5)),
        Rule.GPUS,
    ),
    "an aborted attempt takes GPUs, too": (edit_task(2, gpus=3), Rule.GPUS),
    "an artifact is never fetched": (drop(D1_TO_B), Rule.PRESENT),
    "an artifact arrives just after the start": (edit(D1_TO_A, t1=0.75001), Rule.PRESENT),
    "an artifact is evicted before the start": (edit(M1_LEAVES_B, t=3.0), Rule.PRESENT),
    "an artifact is evicted at the start": (edit(M1_LEAVES_B, t=3.5), Rule.PRESENT),
    "an artifact lies at another site": (both(drop(M1_LEAVES_B), drop(M1_TO_B)), Rule.PRESENT),
    "another task's scratch is used": (edit(D2_TO_B, task="t4"), Rule.PRESENT),
    "nobody's scratch is used": (edit(D2_TO_B, task=None), Rule.PRESENT),
    "scratch arrives just after the start": (edit(D2_TO_B, t1=3.50001), Rule.PRESENT),
    "an attempt starts without its scratch": (edit(D2_TO_B, t1=3.75), Rule.PRESENT),
    "scratch lies at another site": (edit(D2_TO_B, dst=A), Rule.PRESENT),
    "an additional artifact is absent": (edit_task(0, artifacts=["d2"]), Rule.PRESENT),
    "a copy is evicted during a run": (edit(M1_LEAVES_B, t=5.0), Rule.IN_USE),
    "a copy is evicted just before a run ends": (edit(M1_LEAVES_B, t=5.5 - 1e-5), Rule.IN_USE),
    "a copy is evicted just after a run starts": (
        edit(M1_LEAVES_B, t=4.0 + 1e-9),
        Rule.IN_USE,
    ),
    "a data set is evicted during a run": (add(evicted("d1", B, 6.3)), Rule.IN_USE),
    "a home is evicted": (add(evicted("m2", A, 3.0)), Rule.EVICTION),
    "a copy is evicted twice": (add(evicted("m1", B, 5.6)), Rule.EVICTION),
    "a copy is evicted before it comes": (add(evicted("m2", B, 1.0)), Rule.EVICTION),
    "the source never had it": (edit(D2_TO_B, src=A), Rule.SOURCE),
    "the source has not got it yet": (edit(M1_TO_B, t0=0.45), Rule.SOURCE),
    "the source gets it a moment later": (edit(M1_TO_B, t0=0.5 - 1e-5), Rule.SOURCE),
    "the source has dropped it": (edit(D1_LEAVES_A, t=4.0), Rule.SOURCE),
    "the source drops it at that instant": (edit(D1_LEAVES_A, t=5.0), Rule.SOURCE),
    "an artifact without a home is sent": (
        lambda draft: draft.scenario["artifacts"][3].update(home=None),
        Rule.SOURCE,
    ),
    "a transfer beats the link": (edit(M1_TO_B, t1=1.9), Rule.LINK),
    "a transfer beats the link a little": (edit(M2_TO_B, t1=6.1 - 1e-5), Rule.LINK),
    "rates are read by destination": (
        lambda draft: draft.scenario.update(gb_per_h=transposed(draft.scenario["gb_per_h"])),
        Rule.LINK,
    ),
    "a site sends to itself": (add(sent("m2", A, A, 3.0, 3.5, None, stored=False)), Rule.LINK),
    "a site sends to itself at a rate": (
        both(
            lambda draft: draft.scenario["gb_per_h"][A].__setitem__(A, 100.0),
            add(sent("m2", A, A, 3.0, 3.5, None, stored=False)),
        ),
        Rule.LINK,
    ),
    "there is no link": (
        lambda draft: draft.scenario["gb_per_h"][UP].__setitem__(B, None),
        Rule.LINK,
    ),
    "a fetch in flight is repeated": (add(sent("d1", A, B, 5.2, 5.7, None)), Rule.SECOND),
    "a fetch is repeated at one instant": (add(sent("d1", A, B, 5.0, 5.5, None)), Rule.SECOND),
    "a stored copy is fetched again": (
        add(sent("m1", UP, A, 3.0, 3.5, None, stored=False)),
        Rule.SECOND,
    ),
    "a copy is fetched just before it leaves": (
        add(sent("m1", A, B, 5.5 - 1e-5, 6.0, None, stored=False)),
        Rule.SECOND,
    ),
    "models exceed their cache": (edit_site(A, cap_model_gb=3.9999), Rule.CAPACITY),
    "data sets exceed their cache": (edit(D2_TO_B, stored=True), Rule.CAPACITY),
    "room is made a little late": (edit(M1_LEAVES_B, t=5.50001), Rule.CAPACITY),
    "bytes count from t0": (edit(M2_TO_B, t0=5.49999), Rule.CAPACITY),
    "a shared cache is exceeded": (edit_site(B, cap_shared_gb=7.9), Rule.CAPACITY),
}


def transposed(matrix: list[list[Any]]) -> list[list[Any]]:
    return [list(row) for row in zip(*matrix, strict=True)]


#: A fault that cannot be planted without a second one, and that one.
ALSO = {"a task runs twice at once": {Rule.OVERLAP}}


@pytest.mark.parametrize("name", BROKEN_RULES)
def test_a_broken_rule_is_named_and_no_other(draft: Draft, name: str) -> None:
    spoil, rule = BROKEN_RULES[name]
    spoil(draft)
    draft.report_what_is_found()  # so that the totals do not betray it
    assert draft.broken() == {rule} | ALSO.get(name, set())


def test_a_breach_names_its_line(draft: Draft) -> None:
    draft.log[M1_LEAVES_B]["t"] = 5.0
    draft.report_what_is_found()
    (breach,) = draft.verdict().breaches
    assert str(breach) == 'evicted-in-use: log.jsonl:10: task "t3" needs "m1", see line 8'


ALLOWED: dict[str, Spoil] = {
    "a run starts 1e-7 h before arrival": edit_task(1, arrival=1.0 + 1e-7),
    "a run takes 1e-7 h less": edit(T2, t1=2.5 - 1e-7),
    "GPUs are handed over at one instant": FOUR_GPUS_THEN_T2,
    "GPUs are handed over 1e-7 h early": both(
        FOUR_GPUS_THEN_T2, edit(T2, t0=1.75 - 1e-7, t1=3.25 - 1e-7)
    ),
    "an artifact arrives 1e-7 h after the start": edit(D1_TO_A, t1=0.75 + 1e-7),
    "scratch arrives 1e-7 h after the start": edit(D2_TO_B, t1=3.5 + 1e-7),
    "a copy is evicted 1e-7 h before a run ends": edit(M1_LEAVES_B, t=5.5 - 1e-7),
    "a transfer is 1e-7 h too fast": edit(M2_TO_B, t1=6.1 - 1e-7),
    "contention lengthens a transfer": edit(D1_TO_B, t1=6.0),
    "a copy is evicted and fetched again at one instant": both(
        add(evicted("d1", B, 6.6)), add(sent("d1", UP, B, 6.6, 7.1, None))
    ),
    "a stored copy is on its way after an unstored one": add(
        sent("d1", UP, B, 4.0, 6.0, "t4", stored=False)
    ),
    "scratch is brought a second time": add(sent("d2", UP, B, 3.5, 5.5, "t3", stored=False)),
    "a copy is dropped in flight": both(
        add(sent("m1", UP, B, 6.0, 7.0, None)),
        add(evicted("m1", B, 6.05)),
        edit_site(B, cap_model_gb=10.0),
    ),
    "room is just enough": both(edit_site(A, cap_model_gb=4.0), edit_site(B, cap_model_gb=6.0)),
    "a run with its own scratch survives an eviction": both(
        edit(M1_TO_B, src=UP, t0=1.0, stored=False), drop(M1_LEAVES_B),
        add(sent("m1", UP, B, 3.0, 4.5, None)), add(evicted("m1", B, 5.0)),
    ),
    "a run at home survives the eviction of a copy": both(
        add(sent("m2", A, B, 0.0, 0.6, None)), add(sent("m2", B, A, 0.6, 1.4, None)),
        add(evicted("m2", B, 1.5)), add(evicted("m2", A, 2.0)),
    ),
    "unknown keys are there": both(
        edit(T2, note="x"), edit(M1_LEAVES_B, why="room"), edit_task(0, zone="?"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_what_keeps_the_rules_is_not_held_against_a_run(draft: Draft, name: str) -> None:
    ALLOWED[name](draft)
    draft.report_what_is_found()
    assert draft.broken() == set()


def test_the_order_of_lines_tells_nothing(draft: Draft) -> None:
    draft.log.reverse()
    assert draft.broken() == set()


@pytest.mark.parametrize("factor", [1 + 1e-5, 1 - 1e-5])
@pytest.mark.parametrize("key", MONEY)
@pytest.mark.parametrize("part", ["", "measured."])
def test_a_total_off_by_1e_5_is_named(draft: Draft, part: str, key: str, factor: float) -> None:
    totals = draft.reported["measured"] if part else draft.reported
    totals[key] *= factor
    (breach,) = draft.verdict().breaches
    assert (breach.rule, breach.where) == (Rule.TOTAL, f"reported.json: {part}{key}")


@pytest.mark.parametrize("part", ["", "measured."])
def test_a_miss_too_many_is_named(draft: Draft, part: str) -> None:
    (draft.reported["measured"] if part else draft.reported)["misses"] += 1
    (breach,) = draft.verdict().breaches
    assert breach.where == f"reported.json: {part}misses"


def test_a_total_off_by_1e_7_agrees(draft: Draft) -> None:
    for key in MONEY:
        draft.reported[key] *= 1 + 1e-7
    assert draft.broken() == set()


#: Totals as a wrong program would report them, by hand, and what must be named.
WRONG_TOTALS: dict[str, dict[str, float]] = {
    # Each hour takes the next one's value. a: 0.4 0.3 0.2 0.2; b: 0.2 0.6 0.8 0.8; up: 0.7 0.5 0.3.
    # t1 2.4 (0.1 + 0.225), t2 2.4 (0.3 + 0.1), all others at 0.8 before and after;
    # m1>a, d1>a (0.7 + 0.4) / 2; m1>b (0.3 + 0.6) / 2;
    # d2>b: up (0.25 + 0.3 + 0.15) / 2 = 0.35, b (0.3 + 0.8 + 0.4) / 2 = 0.75, so 0.55.
    "carbon comes an hour early": {
        "kg_run": 0.78 + 0.96 + 0.3 + 0.9 + 0.6,
        "kg_transfer": 0.022 + 0.011 + 0.044 + 0.018 + 0.010 + 0.030,
    },
    # Each hour takes the value before. a: 0.5 0.5 0.4 0.3 0.2; b: 0.1 0.1 0.2 0.6 0.8;
    # up: 0.9 0.9 0.7 0.5 0.3. t1 2.4 x 0.5, t2 2.4 (0.5 + 0.2), abort 0.75 x 0.3;
    # d2>b: up (0.45 + 0.7 + 0.25) / 2 = 0.7, b (0.05 + 0.2 + 0.3) / 2 = 0.275, so 0.4875.
    "carbon lags an hour": {
        "kg_run": 1.2 + 1.68 + 0.225 + 0.9 + 0.6,
        "kg_transfer": 0.028 + 0.014 + 0.039 + 0.012 + 0.010 + 0.030,
    },
    # 0.2 $/GB from a to the upstream, 0.05 from b to a, 0.3 from b to the upstream.
    "egress is charged in the other direction": {"transfer_usd": 0.8 + 0.4 + 2.4 + 0.2 + 0.1 + 0.3},
    "one transfer is charged twice": {"transfer_usd": 1.64 + 0.32, "gb_moved": 34.0},
    "a prefetch is not charged": {"transfer_usd": 1.44, "kg_transfer": 0.126, "gb_moved": 24.0},
    "scratch is not charged": {"transfer_usd": 1.32, "kg_transfer": 0.094, "gb_moved": 18.0},
    "the source alone emits": {"kg_transfer": 0.036 + 0.018 + 0.04 + 0.016 + 0.004 + 0.012},
    "both ends emit in full": {"kg_transfer": 0.272},
    # d2>b at 1.5 h: (0.7 + 0.2) / 2 = 0.45.
    "intensity is read at the start": {"kg_transfer": 0.136 - 0.042 + 0.036},
    "an aborted attempt is free": {"energy_usd": 1.0275, "gpu_usd": 12.5, "kg_run": 3.84},
    "PUE is forgotten": {"energy_usd": 0.35 + 0.35 + 0.1 + 0.075 + 0.05},
    "a negative price counts as zero": {"energy_usd": 1.1775 + 2.4 * 0.025},
    "a series is zero past its end": {"energy_usd": 1.1775 - 0.75 * 0.05 - 0.075},
    "work is charged in place of time": {"gpu_usd": 4.0 + 6.0 + 0.5 + 0.75 + 0.5},
    "a miss has a tolerance of 1e-6 h": {"misses": 1, "penalty_usd": 2.0},
    "a miss has no tolerance": {"misses": 3, "penalty_usd": 5.000001},
    "lateness is not capped": {"penalty_usd": 4.050001},
    "only lateness costs": {"penalty_usd": 1.000001},
    # m1@a from 0.5, d1@a from 0.75, m1@b from 2.0, d1@b from 5.5, m2@b from 6.1.
    "storage begins at arrival": {"storage_usd": 0.0244 + 0.010 + 0.028 + 0.0044 + 0.006},
    "storage ignores evictions": {"storage_usd": 0.0872 + 0.85 * 0.002 + 1.1 * 0.008},
    "evicted copies are free": {"storage_usd": 0.0254 + 0.0064 + 0.0132},
    "homes pay storage": {"storage_usd": 0.0872 + 6.6 * 6.0 * 0.001},
}


@pytest.mark.parametrize("name", WRONG_TOTALS)
def test_a_wrong_way_of_counting_is_named(draft: Draft, name: str) -> None:
    wrong = WRONG_TOTALS[name]
    draft.reported.update(wrong)
    breaches = draft.verdict().breaches
    assert {breach.where for breach in breaches} == {f"reported.json: {key}" for key in wrong}


#: The same under "measured".
WRONG_MEASURED: dict[str, dict[str, float]] = {
    "a task is counted by its start": {"energy_usd": 0.7575 - 0.075, "gpu_usd": 8.0},
    "a transfer is counted by its task's arrival": {"transfer_usd": 1.32, "gb_moved": 18.0},
    "storage is cut at the window's end": {"storage_usd": 3.65 * 0.008 + 0.25 * 0.004},
    "the warm-up is counted": {"energy_usd": 1.1775, "kg_run": 4.14, "gpu_usd": 13.0},
}


@pytest.mark.parametrize("name", WRONG_MEASURED)
def test_a_wrong_window_is_named(draft: Draft, name: str) -> None:
    wrong = WRONG_MEASURED[name]
    draft.reported["measured"].update(wrong)
    where = {breach.where for breach in draft.verdict().breaches}
    assert where == {f"reported.json: measured.{key}" for key in wrong}


def test_the_window_contains_its_beginning_and_not_its_end(draft: Draft) -> None:
    draft.scenario["measure_h"] = [1.5, 3.0]  # t3 arrives and d2>b starts at 1.5, t4 arrives at 3
    measured = draft.verdict().measured
    assert measured.gpu_usd == pytest.approx(0.5 + 1.5)
    assert measured.gb_moved == pytest.approx(8.0 + 4.0)


def test_storage_ends_with_the_last_run(draft: Draft) -> None:
    draft.log += [
        sent("d1", UP, A, 6.0, 6.2, None),  # 0.6 h x 2 GB x 0.001 $ until 6.6
        evicted("d1", A, 9.0),
        sent("d1", UP, A, 9.0, 9.2, None),  # nothing
    ]
    found = draft.verdict().totals.storage_usd
    assert found == pytest.approx(REPORTED["storage_usd"] + 0.0012)


def test_a_task_without_a_deadline_is_never_late(draft: Draft) -> None:
    draft.task(3)["deadline"] = None
    verdict = draft.verdict()
    assert verdict.totals.misses == 1
    assert verdict.totals.penalty_usd == pytest.approx(2.000001, rel=1e-9)


# Richer scenarios.


def test_pools_have_their_own_gpus_speed_power_and_price(draft: Draft) -> None:
    draft.site(B)["pools"] = [
        {"gpus": 1, "speed": 3.0, "kw_active": 9.0, "kw_idle": 1.0, "usd_per_gpu_h": 9.0},
        {"gpus": 2},  # the rest is the site's
    ]
    for index in (T3_ABORT, T3, T4):
        draft.log[index]["pool"] = 1
    assert draft.broken() == set()
    draft.log[T3_ABORT]["pool"] = 0
    # 1 GPU x 9 kW x 1.5 x 0.2 $/kW in place of 0.15 $, and 0.5 h x 9 $ in place of 0.5 $.
    totals = draft.verdict().totals
    assert totals.energy_usd == pytest.approx(REPORTED["energy_usd"] - 0.15 + 2.7)
    assert totals.gpu_usd == pytest.approx(13.0 - 0.5 + 4.5)
    draft.log[T4]["pool"] = 0
    assert {Rule.GPUS, Rule.LENGTH} <= draft.broken()


def test_a_run_names_its_pool_where_there_are_several(draft: Draft) -> None:
    draft.site(B)["pools"] = [{}, {}]
    with pytest.raises(MalformedExportError, match=r"log.jsonl:7: pool: is missing"):
        draft.verdict()


def test_an_upstream_may_have_no_pool_at_all(draft: Draft) -> None:
    draft.site(UP)["pools"] = []
    assert draft.broken() == set()


def test_a_task_may_list_its_artifacts_in_place_of_two(draft: Draft) -> None:
    task = draft.task(1)
    del task["model"], task["data"]
    task["artifacts"] = ["m1", "m2", "d1", "d1"]
    assert draft.broken() == set()
    task["artifacts"].append("d2")
    assert draft.broken() == {Rule.PRESENT}


def test_a_shared_cache_holds_both_kinds(draft: Draft) -> None:
    site = draft.site(B)
    del site["cap_model_gb"], site["cap_data_gb"]
    site["cap_shared_gb"] = 8.0  # d1 and m2
    assert draft.broken() == set()


# Files that cannot be read.

BAD_FILES: dict[str, tuple[Spoil, str]] = {
    "unknown event": (
        edit(T2, e="pause"),
        'log.jsonl:4: e: expected transfer or evict or run or abort, found "pause"',
    ),
    "event without a kind": (lambda draft: draft.log[T2].pop("e"), "log.jsonl:4: e: is missing"),
    "unknown task": (edit(T2, task="t9"), 'log.jsonl:4: task: the scenario has no "t9"'),
    "unknown artifact": (edit(T1, e="evict", t=1, artifact="x"), "log.jsonl:3: artifact: the"),
    "site out of range": (edit(T2, site=3), "log.jsonl:4: site: expected 0 to 2, found 3"),
    "site by name": (edit(T2, site="a"), "log.jsonl:4: site: expected a whole number"),
    "site is a flag": (edit(T2, site=True), "log.jsonl:4: site: expected a whole number"),
    "time is a text": (edit(T2, t0="1.0"), 'log.jsonl:4: t0: expected a number, found "1.0"'),
    "time is missing": (lambda draft: draft.log[T2].pop("t1"), "log.jsonl:4: t1: is missing"),
    "time is not finite": (edit(T2, t0=math.nan), "log.jsonl:4: NaN is not a JSON number"),
    "time runs backwards": (edit(T2, t1=0.5), "log.jsonl:4: t1: 0.5 lies before t0 1"),
    "stored is a number": (edit(M1_TO_A, stored=1), "log.jsonl:1: stored: expected true or"),
    "transfer without task": (
        lambda draft: draft.log[D1_TO_B].pop("task"),
        "log.jsonl:9: task: is missing",
    ),
    "price is null": (
        edit_site(A, price_usd_per_kwh=[0.1, None]),
        "scenario.json: sites[0].price_usd_per_kwh[1]: expected a number, found null",
    ),
    "no hours": (
        edit_site(A, ci_kg_per_kwh=[]),
        "scenario.json: sites[0].ci_kg_per_kwh: expected at least one hour",
    ),
    "cache without capacity": (
        lambda draft: draft.site(B).pop("cap_data_gb"),
        "scenario.json: sites[1].cap_data_gb: is missing",
    ),
    "negative size": (
        lambda draft: draft.scenario["artifacts"][0].update(gb=-1),
        "scenario.json: artifacts[0].gb: expected at least 0, found -1",
    ),
    "unknown kind": (
        lambda draft: draft.scenario["artifacts"][0].update(kind="lora"),
        'scenario.json: artifacts[0].kind: expected model or data, found "lora"',
    ),
    "home out of range": (
        lambda draft: draft.scenario["artifacts"][0].update(home=7),
        "scenario.json: artifacts[0].home: expected 0 to 2, found 7",
    ),
    "a task twice": (edit_task(1, id="t1"), 'scenario.json: tasks[1].id: "t1" occurs twice'),
    "a task needs what is not there": (
        edit_task(2, data="d9"),
        'scenario.json: tasks[2].data: the scenario has no "d9"',
    ),
    "a row is short": (
        lambda draft: draft.scenario["gb_per_h"][1].pop(),
        "scenario.json: gb_per_h[1]: expected 3 items, found 2",
    ),
    "a window of three": (
        lambda draft: draft.scenario.update(measure_h=[1, 2, 3]),
        "scenario.json: measure_h: expected 2 items, found 3",
    ),
    "sites are no list": (
        lambda draft: draft.scenario.update(sites={}),
        "scenario.json: sites: expected a list, found {}",
    ),
    "a total is missing": (
        lambda draft: draft.reported["measured"].pop("kg_run"),
        "reported.json: measured.kg_run: is missing",
    ),
    "misses are no count": (
        lambda draft: draft.reported.update(misses=2.5),
        "reported.json: misses: expected a whole number, found 2.5",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_malformed_file_is_refused_by_file_line_and_field(draft: Draft, name: str) -> None:
    spoil, message = BAD_FILES[name]
    spoil(draft)
    with pytest.raises(MalformedExportError) as caught:
        draft.verdict()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"e": "run"', "log.jsonl:2: not JSON at column 12: Expecting ',' delimiter"),
        ("[1]", "log.jsonl:2: expected an object, found [1]"),
        ('{"e":"evict","t":1e999,"site":0,"artifact":"d1"}', "log.jsonl:2: t: expected a finite"),
        ('{"e":"evict","t":1,"site":' + "1" * 5000 + "}", "log.jsonl:2: not read: "),
    ],
)
def test_a_broken_line_is_named(draft: Draft, broken: str, message: str) -> None:
    scenario, log, reported = draft.texts()
    first, rest = log.split("\n", 1)
    with pytest.raises(MalformedExportError) as caught:
        parse_export(scenario, f"{first}\n{broken}\n{rest}", reported)
    assert str(caught.value).startswith(message)


def test_a_scenario_that_is_not_json_is_named_with_its_line(draft: Draft) -> None:
    _, log, reported = draft.texts()
    with pytest.raises(MalformedExportError, match=r"^scenario.json:2: not JSON at column 1: "):
        parse_export('{"sites":\n', log, reported)


# The command.


def write(draft: Draft, directory: Path) -> None:
    names = ("scenario.json", "log.jsonl", "reported.json")
    for name, text in zip(names, draft.texts(), strict=True):
        (directory / name).write_text(text)


def test_the_command_prints_both_totals_and_no_fault(draft: Draft, tmp_path: Path) -> None:
    """It runs alone, away from the repository and in isolated mode: it needs nothing of ours."""
    write(draft, tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(CHECKER), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "gb_moved 26 26" in lines
    assert "measured.transfer_usd 0.92 0.92" in lines
    assert lines[-1] == "0 faults in 5 attempts and 6 transfers"


def test_the_command_fails_with_every_fault(
    draft: Draft, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft.log[T2]["t1"] = 2.6
    draft.reported["misses"] = 7
    write(draft, tmp_path)
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "work-over-speed: log.jsonl:4: takes 1.6 h, not 1.5 h" in printed
    assert "total: reported.json: misses: reported 7, recomputed 3" in printed


def test_the_command_names_a_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 1
    assert "scenario.json" in capsys.readouterr().err
    assert main([]) == 2


# Laws.

HOURS = st.floats(-10, 30)
SERIES = st.lists(st.floats(-1, 1), min_size=1, max_size=12)


@given(SERIES, HOURS, HOURS, HOURS)
def test_integrals_add_up(values: list[float], one: float, two: float, three: float) -> None:
    series = StepSeries(values)
    a, b, c = sorted((one, two, three))
    parts = series.integral(a, b) + series.integral(b, c)
    assert series.integral(a, c) == pytest.approx(parts, abs=1e-9)


@given(SERIES, st.integers(-500, 1500), st.integers(0, 500))
def test_an_integral_is_a_sum_of_small_steps(values: list[float], start: int, count: int) -> None:
    """Steps of 1/50 h never straddle an hour; outside, the outer values hold."""
    hours = [(start + i) // 50 for i in range(count)]
    expected = sum(values[min(max(hour, 0), len(values) - 1)] for hour in hours) / 50
    found = StepSeries(values).integral(start / 50, (start + count) / 50)
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_mean_over_an_instant_is_the_value_then() -> None:
    series = StepSeries([1.0, 2.0, 4.0])
    assert [series.mean(t, t) for t in (-5.0, 0.0, 0.999, 1.0, 2.5, 99.0)] == [1, 1, 1, 2, 4, 4]


NUMBERS = [
    (index, key)
    for index, event in enumerate(LOG)
    for key, value in event.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]
#: Smaller changes of instants hide in the tolerance of the totals.
LEAST_CHANGE_H = 1e-3


def is_told_by_nothing(before: dict[str, Any], after: dict[str, Any], key: str) -> bool:
    """Return whether a change of a transfer's instant may go unnoticed.

    Where both ends keep one intensity, a transfer emits the same whenever it starts and ends;
    contention may lengthen it at will; storage counts from the start, of a stored one only. What
    remains is the end, which matters to those alone who wait for it, and the start of scratch.
    """
    if before["e"] != "transfer" or (key == "t0" and before["stored"]):
        return False
    instants = [event[t] for event in (before, after) for t in ("t0", "t1")]
    hours = range(math.floor(min(instants)), math.floor(max(instants)) + 1)
    ends = [SCENARIO["sites"][before[end]]["ci_kg_per_kwh"] for end in ("src", "dst")]
    return all(len({ci[min(max(hour, 0), len(ci) - 1)] for hour in hours}) == 1 for ci in ends)


def faults_of(draft: Draft) -> list[str]:
    """Return what is wrong with an export, readable or not."""
    try:
        return [str(breach) for breach in draft.verdict().breaches]
    except MalformedExportError as refused:
        return [str(refused)]


@settings(max_examples=400)
@given(
    st.sampled_from(NUMBERS),
    st.floats(LEAST_CHANGE_H, 40.0),
    st.booleans(),
    st.integers(-3, 6),
)
@example((T2, "t1"), LEAST_CHANGE_H, True, 1)
@example((M1_LEAVES_B, "t"), LEAST_CHANGE_H, False, 1)
@example((D1_LEAVES_A, "t"), LEAST_CHANGE_H, True, 1)
def test_any_changed_number_of_the_log_is_noticed(
    place: tuple[int, str], change_h: float, is_later: bool, shift: int
) -> None:
    index, key = place
    draft = good()
    before, after = LOG[index], draft.log[index]
    if isinstance(after[key], int):  # a site
        assume(shift != 0)
        after[key] += shift
    else:
        after[key] += change_h if is_later else -change_h
    assert faults_of(draft) or is_told_by_nothing(before, after, key)


@given(st.permutations(range(len(LOG))))
def test_totals_do_not_depend_on_the_order_of_lines(order: list[int]) -> None:
    draft = good()
    draft.log = [LOG[index] for index in order]
    assert draft.verdict().breaches == ()
