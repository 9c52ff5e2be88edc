"""Looks back at a task: what it left behind, why it ran where it did, what it cost.

gcos up
python examples/python/look_back.py
"""

import asyncio
import tempfile
from pathlib import Path

import gcos

DOCUMENT = Path(__file__).parents[1] / "custom.yaml"


async def main() -> None:
    """Submit the example that needs no model and no data, and ask three questions once it ended."""
    async with gcos.Client.connect() as client:
        submission = await client.submit(DOCUMENT.read_bytes(), request_id="python-example")
        task = await client.wait(submission.task.task_id)

        with tempfile.TemporaryDirectory() as place:
            # The directory must be new: it appears whole or not at all.
            results = await client.results(task.task_id, Path(place) / "results")
            for path, size_bytes in results.sizes.items():
                print(f"left: {path}, {size_bytes} bytes")

        explanation = await client.explain(task.task_id)
        for event in explanation.events:
            print(f"event: {event.kind}, {event.message}")

        ledger = await client.ledger()
    for entry in ledger.entries:
        if entry.task_id == task.task_id:
            spent, at_origin = entry.charge, entry.at_origin
            print(f"cost: {spent.cost_usd(entry.scope):.3g} $ ({entry.scope.value})")
            print(
                f"carbon: {spent.carbon_gco2:.4g} g at {entry.site_id}, "
                f"{at_origin.carbon_gco2:.4g} g at its origin {entry.origin}"
            )


asyncio.run(main())
