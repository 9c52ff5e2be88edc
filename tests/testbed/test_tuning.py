"""Tuning: every declared change is one, all policies get the same budget, and the best is told."""

from dataclasses import replace

import pytest

from policies.catalogue import POLICIES
from testbed import tuning
from testbed.sim.samples import Sample, instance_of
from testbed.tuning import CHANGES, Outcome, Tuning

SMALL = Sample(task_count=20, tasks_per_h=40.0, site_count=2)


@pytest.fixture(scope="module")
def tuned() -> Tuning:
    return Tuning([instance_of(replace(SMALL, seed=seed)) for seed in range(2)])


def test_every_policy_gets_the_same_budget() -> None:
    assert {len(set(changes)) for changes in CHANGES.values()} == {5}
    assert set(CHANGES) <= set(POLICIES)


@pytest.mark.parametrize("policy", CHANGES)
def test_every_change_can_be_run(tuned: Tuning, policy: str) -> None:
    found = [tuned.outcome(policy, (change,)) for change in CHANGES[policy]]
    assert all(len(each.ratios) == 2 and min(each.ratios) > 0 for each in found)


def test_changes_change_something(tuned: Tuning) -> None:
    shipped = tuned.outcome("milp", ())
    assert tuned.outcome("milp", (("overcommit_usd", 1e3),)).ratios != shipped.ratios
    shipped = tuned.outcome("rule", ())
    assert tuned.outcome("rule", (("reauction_usd", 1e3),)).ratios != shipped.ratios


def test_the_last_setting_joins_what_helped(tuned: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = (("caution", 0.0), ("caution", 0.6), ("fill", 0.7), ("fill", 1.0))
    ratios = dict(
        zip(((), *((each,) for each in changes)), (1.0, 0.9, 0.8, 1.1, 0.95), strict=True)
    )

    def outcome(_self: Tuning, policy: str, chosen: tuple[tuning.Change, ...]) -> Outcome:
        return Outcome(policy, chosen, (ratios.get(chosen, 0.7),) * 2)

    monkeypatch.setattr(Tuning, "outcome", outcome)
    monkeypatch.setitem(CHANGES, "plan", changes)
    *_, last = tuned.outcomes("plan")
    assert last.changes == (("caution", 0.6), ("fill", 1.0))
    shipped = Outcome("plan", (), (1.0, 1.0))
    assert last.row(shipped) == "| `plan` | caution 0.6, fill 1 | -30.0 % (0.0) | -30.0 % (0.0) |"
