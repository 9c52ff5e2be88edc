import random
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import Charge, CostScope
from gcos.artifacts import ArtifactKind
from gcos.contract_net import Report
from gcos.ids import Fence, RunId, SiteId, TaskId
from gcos.ledger import LedgerEntry, fetched_bytes, savings
from gcos.tasks import Reason, RunState, WorkKind

ENTRY = LedgerEntry(
    run_id=RunId("paris-1.1.1"),
    task_id=TaskId("paris-1"),
    name="t",
    project="default",
    kind=WorkKind.CUSTOM,
    model="m",
    data=(),
    origin=SiteId("paris"),
    site_id=SiteId("oslo"),
    pool_type="H100",
    gpu_count=1,
    state=RunState.SUCCEEDED,
    submitted_s=0.0,
    started_s=10.0,
    ended_s=110.0,
    deadline_s=None,
    charge=Charge(energy_usd=1.0),
    at_origin=Charge(energy_usd=3.0),
    scope=CostScope.OPERATOR,
    carbon_price_usd_per_kg=0.2,
    is_energy_measured=False,
    is_carbon_known=True,
    fetched={"MODEL": 5},
)

AMOUNTS = st.floats(-1e6, 1e6)
CHARGES = st.builds(
    Charge,
    **{
        field.name: st.integers(0, 10**12) if field.name == "transfer_bytes" else AMOUNTS
        for field in fields(Charge)
    },
)
ENTRIES = st.lists(st.tuples(CHARGES, CHARGES), max_size=8).map(
    lambda pairs: [replace(ENTRY, charge=spent, at_origin=home) for spent, home in pairs]
)


@given(entries=ENTRIES)
def test_savings_are_the_sums_of_all_entries_item_by_item(entries: list[LedgerEntry]) -> None:
    total = savings(entries)
    assert total.entry_count == len(entries)
    for field in fields(Charge):
        spent = sum(getattr(entry.charge, field.name) for entry in entries)
        home = sum(getattr(entry.at_origin, field.name) for entry in entries)
        assert getattr(total.spent, field.name) == pytest.approx(spent, abs=1e-3)
        assert getattr(total.at_origin, field.name) == pytest.approx(home, abs=1e-3)


@given(entries=ENTRIES, seed=st.integers())
def test_savings_do_not_depend_on_the_order_of_entries(
    entries: list[LedgerEntry], seed: int
) -> None:
    shuffled = random.Random(seed).sample(entries, len(entries))
    assert savings(shuffled) == savings(iter(entries))


def test_the_work_of_a_failed_attempt_is_spent_and_would_have_cost_nothing_at_home() -> None:
    failed = replace(ENTRY, state=RunState.FAILED, at_origin=Charge())
    total = savings([ENTRY, failed])
    assert (total.spent.energy_usd, total.at_origin.energy_usd) == (2.0, 3.0)


def test_no_entries_save_nothing() -> None:
    assert savings([]) == replace(savings([]), spent=Charge(), at_origin=Charge(), entry_count=0)


@pytest.mark.parametrize(("deadline_s", "late_s"), [(None, 0.0), (110.0, 0.0), (100.0, 10.0)])
def test_lateness_counts_from_the_deadline(deadline_s: float | None, late_s: float) -> None:
    assert replace(ENTRY, deadline_s=deadline_s).late_s == late_s


def test_moved_bytes_are_kept_by_kind() -> None:
    assert fetched_bytes(ENTRY, ArtifactKind.MODEL) == 5
    assert fetched_bytes(ENTRY, ArtifactKind.DATA) == 0


@pytest.mark.parametrize(("started_s", "run_s"), [(None, 0.0), (10.0, 90.0), (101.0, 0.0)])
def test_a_run_executed_from_its_start_to_its_end(started_s: float | None, run_s: float) -> None:
    report = Report(
        run_id=ENTRY.run_id,
        task_id=ENTRY.task_id,
        fence=Fence(1, 1),
        site_id=ENTRY.site_id,
        state=RunState.FAILED,
        reason=Reason.EXIT_CODE,
        message="",
        exit_code=1,
        pool_type="H100",
        accepted_s=0.0,
        staged_s=None,
        started_s=started_s,
        ended_s=100.0,
        charge=Charge(),
        fetches=(),
        evictions=(),
        is_energy_measured=False,
        log_tail="",
    )
    assert report.run_s == run_s
