"""What a site planned copies from, and what it decided: so that a plan can be made again. Pure."""

from dataclasses import dataclass

from gcos.outlook import Outlook
from policies.maccs.copy_plan import UNLEARNED, Learned
from site_agent.copy_planning import PlannedCopy, Tariff, planned_copies, remembered
from site_agent.sourcing import Links


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """One plan of one site.

    Attributes:
        site_id: Whose.
        at_s: World instant of the beat.
        outlooks: What it was made from: this site's and its peers'.
        carbon_price_usd_per_kg: Lambda.
        network_kwh_per_gb: Kappa.
        byte_ratio: World bytes that a stored byte stands for.
        actor: Version of the actor that was asked; empty: none.
        residual_scale: Its weight.
        copies: What was decided, for all sites, best first.
    """

    site_id: str
    at_s: float
    outlooks: tuple[Outlook, ...]
    carbon_price_usd_per_kg: float
    network_kwh_per_gb: float
    byte_ratio: float
    actor: str
    residual_scale: float
    copies: tuple[PlannedCopy, ...]


def record_of(
    site_id: str,
    outlooks: tuple[Outlook, ...],
    tariff: Tariff,
    copies: tuple[PlannedCopy, ...],
    *,
    actor: str,
    residual_scale: float,
) -> PlanRecord:
    """Return the record of a plan."""
    return PlanRecord(
        site_id=site_id,
        at_s=max(outlook.at_s for outlook in outlooks),
        outlooks=outlooks,
        carbon_price_usd_per_kg=tariff.carbon_price_usd_per_kg,
        network_kwh_per_gb=tariff.network_kwh_per_gb,
        byte_ratio=tariff.byte_ratio,
        actor=actor,
        residual_scale=residual_scale,
        copies=copies,
    )


def made_again(
    record: PlanRecord, links: Links, learned: Learned = UNLEARNED
) -> tuple[PlannedCopy, ...]:
    """Return what the same plan gives on what was recorded.

    Args:
        record: What was recorded.
        links: Link between two zones, as the site knew them.
        learned: What is to correct it.
    """
    tariff = Tariff(
        carbon_price_usd_per_kg=record.carbon_price_usd_per_kg,
        network_kwh_per_gb=record.network_kwh_per_gb,
        links=links,
        byte_ratio=record.byte_ratio,
    )
    return planned_copies(record.outlooks, remembered(record.outlooks), tariff, learned=learned)


def is_same(record: PlanRecord, copies: tuple[PlannedCopy, ...]) -> bool:
    """Tell whether the same copies were chosen for the same sites in the same order."""
    return [(each.site_id, each.need.artifact_id) for each in record.copies] == [
        (each.site_id, each.need.artifact_id) for each in copies
    ]
