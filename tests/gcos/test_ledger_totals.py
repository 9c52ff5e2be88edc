"""Sums over the ledger."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import Charge, CostScope
from gcos.ids import SiteId, TaskId
from gcos.ledger import LedgerEntry
from gcos.ledger_totals import LedgerKey, gpu_h, groups
from gcos.tasks import RunState, WorkKind
from testbed import samples

ENTRY = samples.ledger_entry(TaskId("de-1"))


def test_entries_are_added_up_by_each_key() -> None:
    other = replace(
        ENTRY,
        task_id=TaskId("de-2"),
        project="night",
        site_id=SiteId("on"),
        model="",
        kind=WorkKind.CUSTOM,
    )
    keys = {by: [group.key for group in groups([ENTRY, other], by)] for by in LedgerKey}
    assert keys == {
        LedgerKey.PROJECT: ["default", "night"],
        LedgerKey.SITE: ["cal", "on"],
        LedgerKey.MODEL: ["", "org/tiny-lm"],
        LedgerKey.KIND: ["custom", "fine-tune"],
        LedgerKey.TASK: ["de-1", "de-2"],
    }
    (every,) = groups([ENTRY, other], None)
    assert (every.key, every.attempt_count) == ("", 2)
    assert groups([], None) == ()


def test_a_group_has_cost_and_carbon_by_item_and_the_yardstick() -> None:
    failed = replace(samples.ledger_entry(TaskId("de-1"), state=RunState.FAILED))
    (group,) = groups([ENTRY, failed], LedgerKey.TASK)
    assert group.spent == Charge.sum([ENTRY.charge, failed.charge])
    assert group.at_origin == ENTRY.at_origin
    assert (group.attempt_count, group.succeeded_count) == (2, 1)
    assert group.cost_usd == group.spent.cost_usd(CostScope.OPERATOR)
    assert group.carbon_gco2 == group.spent.carbon_gco2
    assert group.at_origin_carbon_gco2 == ENTRY.at_origin.carbon_gco2
    assert group.gpu_h == 4.0  # two GPUs, an hour, twice


def test_a_missing_signal_does_not_look_like_a_saving() -> None:
    blind = replace(
        ENTRY,
        is_carbon_known=False,
        charge=replace(ENTRY.charge, compute_gco2=0.0),
        is_energy_measured=True,
    )
    (group,) = groups([ENTRY, blind], None)
    assert group.carbon_gco2 == ENTRY.charge.carbon_gco2
    assert group.at_origin_carbon_gco2 == ENTRY.at_origin.carbon_gco2
    assert (group.unknown_carbon_count, group.modelled_energy_count) == (1, 1)


def test_amounts_under_differing_terms_are_kept_apart() -> None:
    dearer = replace(ENTRY, carbon_price_usd_per_kg=2.0)
    rented = replace(ENTRY, scope=CostScope.WITH_GPU_HOURS)
    found = groups([rented, dearer, ENTRY], LedgerKey.PROJECT)
    assert [(each.scope, each.carbon_price_usd_per_kg) for each in found] == [
        (CostScope.OPERATOR, 0.2),
        (CostScope.OPERATOR, 2.0),
        (CostScope.WITH_GPU_HOURS, 0.2),
    ]


def test_an_attempt_that_never_started_used_no_gpu() -> None:
    assert gpu_h(replace(ENTRY, started_s=None)) == 0.0


ENTRIES = st.lists(
    st.builds(
        lambda task, project, usd, is_known: replace(
            ENTRY,
            task_id=TaskId(f"de-{task}"),
            project=project,
            charge=Charge(energy_usd=usd, compute_gco2=3 * usd),
            is_carbon_known=is_known,
        ),
        st.integers(0, 3),
        st.sampled_from(["a", "b"]),
        st.floats(0, 100),
        st.booleans(),
    )
)


@given(ENTRIES, st.sampled_from(LedgerKey))
def test_sums_by_any_key_add_up_to_the_sum_of_all(
    entries: list[LedgerEntry], by: LedgerKey
) -> None:
    parts = groups(entries, by)
    assert sum(each.attempt_count for each in parts) == len(entries)
    (total,) = groups(entries, None) or (None,)
    if total is not None:
        assert abs(sum(each.cost_usd for each in parts) - total.cost_usd) < 1e-9
        assert abs(sum(each.carbon_gco2 for each in parts) - total.carbon_gco2) < 1e-9


@given(ENTRIES.flatmap(lambda entries: st.tuples(st.just(entries), st.permutations(entries))))
def test_the_order_of_entries_does_not_show(
    pair: tuple[list[LedgerEntry], list[LedgerEntry]],
) -> None:
    entries, shuffled = pair
    assert groups(entries, LedgerKey.PROJECT) == groups(shuffled, LedgerKey.PROJECT)
