"""Looks back at a task, without asyncio: what it left, why it ran where it did, what it cost.

gcos up
python examples/python/look_back_sync.py
"""

import tempfile
from pathlib import Path

import gcos

DOCUMENT = Path(__file__).parents[1] / "custom.yaml"

with gcos.SyncClient.connect() as client:
    submission = client.submit(DOCUMENT.read_bytes(), request_id="python-example")
    task = client.wait(submission.task.task_id)
    with tempfile.TemporaryDirectory() as place:
        # The directory must be new: it appears whole or not at all.
        results = client.results(task.task_id, Path(place) / "results")
    explanation = client.explain(task.task_id)
    ledger = client.ledger()

for path, size_bytes in results.sizes.items():
    print(f"left: {path}, {size_bytes} bytes")
for event in explanation.events:
    print(f"event: {event.kind}, {event.message}")
for entry in ledger.entries:
    if entry.task_id == task.task_id:
        spent, at_origin = entry.charge, entry.at_origin
        print(f"cost: {spent.cost_usd(entry.scope):.3g} $ ({entry.scope.value})")
        print(
            f"carbon: {spent.carbon_gco2:.4g} g at {entry.site_id}, "
            f"{at_origin.carbon_gco2:.4g} g at its origin {entry.origin}"
        )
