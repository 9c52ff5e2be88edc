"""Finds the greenest offer for a task, without asyncio. Changes nothing.

gcos up
python examples/python/plan_sync.py
"""

from pathlib import Path

import gcos

DOCUMENT = Path(__file__).parents[1] / "custom.yaml"

with gcos.SyncClient.connect() as client:
    plan = client.plan(DOCUMENT.read_bytes())
    readings = {reading.site_id: reading for reading in client.signals().items}

known = [bid for bid in plan.bids if bid.is_carbon_known]
greenest = min(known, key=lambda bid: bid.charge.carbon_gco2)
print(f"chosen: {plan.chosen_site_id}; greenest: {greenest.site_id}")
carbon = readings[greenest.site_id].carbon
if carbon is not None:
    print(
        f"carbon intensity there: {carbon.values[0]:.0f} {carbon.unit}, {carbon.provenance.source}"
    )
