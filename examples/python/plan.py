"""Asks who would run a task, when and at what cost. Changes nothing.

gcos up
python examples/python/plan.py
"""

import asyncio
from pathlib import Path

import gcos

DOCUMENT = Path(__file__).parents[1] / "custom.yaml"


async def main() -> None:
    """Print the offers, best first, and who refuses."""
    async with gcos.Client.connect() as client:
        plan = await client.plan(DOCUMENT.read_bytes())
        now_s = await client.world_now_s()
    for bid in plan.bids:
        mark = "*" if bid.site_id == plan.chosen_site_id else " "
        carbon = f"{bid.charge.carbon_gco2:.4g} g" if bid.is_carbon_known else "carbon unknown"
        cost_usd = bid.charge.cost_usd(plan.terms.scope)
        start_s = max(0.0, bid.start_s - now_s)
        p50_end_s, p90_end_s = (
            max(start_s, finish_s - now_s) for finish_s in (bid.p50_finish_s, bid.p90_finish_s)
        )
        print(
            f"{mark} {bid.site_id}: {bid.pool_type}, starts in {start_s:.0f} s, "
            f"ends in {p50_end_s:.0f} to {p90_end_s:.0f} s, "
            f"{cost_usd:.3g} $ ({plan.terms.scope.value}), {carbon}"
        )
    for refusal in plan.refusals:
        print(f"  {refusal.site_id}: {refusal.reason.value}, {refusal.message}")


asyncio.run(main())
