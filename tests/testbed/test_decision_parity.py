"""A recorded plan is made again alike by the file, by arrays and by torch; another one is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gcos import codec
from gcos.outlook import Outlook
from gcos.sites import Link
from policies.catalogue import POLICIES
from policies.maccs.copy_plan import plan_copies
from site_agent.copy_planning import PlannedCopy
from site_agent.plan_files import PlanRecords
from site_agent.plan_record import PlanRecord, record_of
from site_agent.wiring import PLANS_NAME
from testbed import decision_parity
from testbed.decision_parity import forms, parity
from testbed.planner import learned
from testbed.sim.foresight import CopyPlans
from testbed.sim.samples import Sample, instance_of
from testbed.sim.simulation import Simulation

WORLD = Sample(task_count=100, tasks_per_h=15.0, site_count=8, egress_usd_per_gb=0.005)


@pytest.fixture(scope="module")
def records() -> list[PlanRecord]:
    """Return the plans of a run in which the actor has its full weight."""
    version, _ = forms(None)
    instance = instance_of(WORLD)
    found: list[PlanRecord] = []
    real = CopyPlans.copies

    def kept(self: CopyPlans, outlooks: Any, *, now_s: float) -> tuple[PlannedCopy, ...]:
        copies = real(self, outlooks, now_s=now_s)
        found.append(
            record_of(
                "s0", tuple(outlooks), self._tariff, copies, actor=version, residual_scale=1.0
            )
        )
        return copies

    simulation = Simulation(
        instance,
        POLICIES["maccs"],
        planner=plan_copies,
        learned=learned(("artifact",), scales={"artifact": 1.0}, is_compiled=False),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CopyPlans, "copies", kept)
        simulation.run()
    told = [*found[:3], *(record for record in found[3:] if record.copies)]
    return [codec.decode(PlanRecord, codec.encode(record)) for record in told]


def link(_source: str, _target: str) -> Link:
    return Link(0.0, 1.0, WORLD.egress_usd_per_gb)


def test_every_form_of_the_actor_decides_as_it_was_decided(records: list[PlanRecord]) -> None:
    found = parity(records, link)
    assert found.plan_count == len(records)
    assert found.copy_count > 5
    assert {"onnx", "arrays"} <= set(found.same_by)
    assert found.is_whole
    assert all(isinstance(outlook, Outlook) for outlook in records[0].outlooks)


def test_other_decision_or_other_weight_is_seen(records: list[PlanRecord]) -> None:
    busy = next(record for record in records if record.copies)
    assert not parity([replace(busy, copies=busy.copies[1:])], link).is_whole
    other = [replace(record, residual_scale=0.0) for record in records]
    assert not parity(other, link).is_whole, "what was learned does decide something here"


def test_plan_of_another_actor_is_not_judged(records: list[PlanRecord]) -> None:
    found = parity([replace(records[0], actor="artifact/0")], link)
    assert (found.plan_count, found.skipped_count) == (0, 1)


def test_command_reads_what_agents_kept(
    records: list[PlanRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(decision_parity, "_link", link)
    assert decision_parity.main([str(tmp_path)]) == 1, "nothing was made again"
    keeper = PlanRecords(tmp_path / PLANS_NAME, count_max=100)
    for record in records:
        keeper.keep(record)
    assert decision_parity.main([str(tmp_path)]) == 0
    assert f"{len(records)} plans" in capsys.readouterr().out
    assert decision_parity.main([str(tmp_path), "--actors", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err
