"""What attempts cost together, by project, site, model, kind or task. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gcos.accounting import S_PER_H, Charge, CostScope
from gcos.client_records import Scales, Unreachable
from gcos.ledger import LedgerEntry
from gcos.tasks import RunState

SAVINGS_DEFINITION: Final = (
    "against running at the origin at once: the same measured run time, started at the origin at "
    "the moment of submission on its first pool, what the origin then lacked fetched from the "
    "cheapest holder, no queueing and no penalty for a missed deadline there; failed attempts and "
    "penalties count as spent"
)


class LedgerKey(Enum):
    """By what entries are added up."""

    PROJECT = "project"
    SITE = "site"
    MODEL = "model"
    KIND = "kind"
    TASK = "task"


@dataclass(frozen=True, slots=True)
class LedgerGroup:
    """Attempts that have a key, a cost scope and a carbon price in common, and their sums.

    Carbon, spent and at the origin, is summed over attempts whose carbon is known; else a missing
    signal would look like a saving.

    Attributes:
        key: What they have in common; empty where that is absent, and for the sum of all.
        scope: Which items are cost.
        carbon_price_usd_per_kg: Lambda.
        attempt_count: Attempts.
        succeeded_count: Those that succeeded.
        unknown_carbon_count: Those whose carbon is unknown, because a signal was missing or stale.
        modelled_energy_count: Those whose energy is modelled from the pool's power, not measured.
        gpu_h: GPU hours.
        cost_usd: Cost in `scope`.
        carbon_gco2: Carbon of compute and network.
        at_origin_cost_usd: Cost at the origin at once, in `scope`.
        at_origin_carbon_gco2: Carbon at the origin at once.
        spent: What was charged, by item.
        at_origin: What it would have been at the origin at once, by item.
    """

    key: str
    scope: CostScope
    carbon_price_usd_per_kg: float
    attempt_count: int
    succeeded_count: int
    unknown_carbon_count: int
    modelled_energy_count: int
    gpu_h: float
    cost_usd: float
    carbon_gco2: float
    at_origin_cost_usd: float
    at_origin_carbon_gco2: float
    spent: Charge
    at_origin: Charge


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """Sums over the ledger.

    Attributes:
        by: By what entries are added up; None: all together.
        since_s: World instant; attempts that ended before are left out.
        savings_definition: What the figures at the origin mean.
        groups: Sorted by key, scope and carbon price.
        scales: How the world is scaled there.
        unreachable: Sites whose entries are missing.
    """

    by: LedgerKey | None
    since_s: float
    savings_definition: str
    groups: tuple[LedgerGroup, ...]
    scales: Scales
    unreachable: tuple[Unreachable, ...]


def groups(entries: Iterable[LedgerEntry], by: LedgerKey | None) -> tuple[LedgerGroup, ...]:
    """Return sums by key, scope and carbon price: amounts under differing terms do not compare."""
    members: dict[tuple[str, str, float], list[LedgerEntry]] = {}
    for entry in entries:
        terms = (_key(entry, by), entry.scope.value, entry.carbon_price_usd_per_kg)
        members.setdefault(terms, []).append(entry)
    return tuple(_group(terms[0], members[terms]) for terms in sorted(members))


def gpu_h(entry: LedgerEntry) -> float:
    """Return the GPU hours of an attempt; 0 where it never started."""
    if entry.started_s is None:
        return 0.0
    return entry.gpu_count * max(0.0, entry.ended_s - entry.started_s) / S_PER_H


def _group(key: str, entries: Sequence[LedgerEntry]) -> LedgerGroup:
    scope, price = entries[0].scope, entries[0].carbon_price_usd_per_kg
    spent = Charge.sum(entry.charge for entry in entries)
    at_origin = Charge.sum(entry.at_origin for entry in entries)
    known = [entry for entry in entries if entry.is_carbon_known]
    return LedgerGroup(
        key=key,
        scope=scope,
        carbon_price_usd_per_kg=price,
        attempt_count=len(entries),
        succeeded_count=sum(entry.state is RunState.SUCCEEDED for entry in entries),
        unknown_carbon_count=len(entries) - len(known),
        modelled_energy_count=sum(not entry.is_energy_measured for entry in entries),
        gpu_h=math.fsum(gpu_h(entry) for entry in entries),
        cost_usd=spent.cost_usd(scope),
        carbon_gco2=Charge.sum(entry.charge for entry in known).carbon_gco2,
        at_origin_cost_usd=at_origin.cost_usd(scope),
        at_origin_carbon_gco2=Charge.sum(entry.at_origin for entry in known).carbon_gco2,
        spent=spent,
        at_origin=at_origin,
    )


def _key(entry: LedgerEntry, by: LedgerKey | None) -> str:
    match by:
        case LedgerKey.PROJECT:
            return entry.project
        case LedgerKey.SITE:
            return entry.site_id
        case LedgerKey.MODEL:
            return entry.model
        case LedgerKey.KIND:
            return entry.kind.value.lower().replace("_", "-")
        case LedgerKey.TASK:
            return entry.task_id
        case None:
            return ""
