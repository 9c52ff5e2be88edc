"""From outlooks to copies: small worlds in which it is plain what must happen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.artifacts import ArtifactKind
from gcos.ids import ArtifactId, SiteId, TaskId
from gcos.outlook import (
    ExpectedRun,
    Outlook,
    OutlookArtifact,
    OutlookCopy,
    OutlookPool,
    OutlookRoom,
    Submission,
)
from gcos.sites import Link
from policies.maccs.copy_plan import GRID_H, HORIZON_H, MEMORY_H, Settings
from site_agent.copy_planning import Tariff, planned_copies, remembered
from site_agent.outlook import RATE_H, refuse_nonsense

BEAT_S = 500_000 * 3600.0
GB = 10**9
MODEL = OutlookArtifact(ArtifactId("m"), ArtifactKind.MODEL, "llama", 40 * GB)
DATA = OutlookArtifact(ArtifactId("d"), ArtifactKind.DATA, "corpus", 20 * GB)
TARIFF = Tariff(0.5, 0.0065, lambda _a, _b: Link(0.01, 1e9, 0.05))
CALM = Settings(caution=0.0, fill=0.9, payback_h=HORIZON_H)


def task(number: int, *, hours: float = 2.0, **fields: object) -> Submission:
    made = Submission(
        TaskId(f"t-{number:04d}"),
        arrival_s=BEAT_S - (1 + number % 160) * 3600.0,
        gpu_count=4,
        model_id=MODEL.artifact_id,
        data_id=DATA.artifact_id,
        fixed_penalty_usd=0.0,
        runs=(ExpectedRun("H100", run_h=hours, late_usd=0.0),),
    )
    return replace(made, **fields)


def outlook(
    name: str,
    *tasks: Submission,
    rate: float,
    holds: tuple[OutlookArtifact, ...] = (),
    gpu_count: int = 64,
    load: float = 0.0,
    room_gb: int = 100,
) -> Outlook:
    rooms = tuple(OutlookRoom(kind, room_gb * GB, room_gb * GB, 1.0) for kind in ArtifactKind)
    made = Outlook(
        site_id=SiteId(name),
        zone=name.upper(),
        address=f"{name}:1",
        at_s=BEAT_S,
        carbon_gco2_per_kwh=100.0,
        rate_usd_per_kwh=(rate,) * RATE_H,
        remembered_h=MEMORY_H,
        submission_count=len(tasks),
        pools=(OutlookPool("H100", gpu_count, 1.0, 0.0, (load,) * GRID_H),),
        rooms=rooms,
        copies=tuple(OutlookCopy(each.artifact_id, True, False, 1.0) for each in holds),
        artifacts=(MODEL, DATA),
        submissions=tasks,
    )
    refuse_nonsense(made)
    return made


def copies_of(*outlooks: Outlook) -> list[tuple[str, str]]:
    planned = planned_copies(outlooks, remembered(outlooks), TARIFF, settings=CALM)
    return [(each.site_id, each.need.name) for each in planned]


DEAR = outlook("dear", *(task(number) for number in range(80)), rate=0.5, holds=(MODEL, DATA))
CHEAP = outlook("cheap", rate=0.05)


def test_a_cheap_site_gets_what_many_tasks_need() -> None:
    """80 tasks a week make 23 in two days; each saves 4 x 2 h x 0.45 $, and 60 GB cost 3 $."""
    assert sorted(copies_of(CHEAP, DEAR)) == [("cheap", "corpus"), ("cheap", "llama")]


def test_the_plan_tells_from_whom_to_bring_and_why() -> None:
    outlooks = [CHEAP, DEAR]
    planned = planned_copies(outlooks, remembered(outlooks), TARIFF, settings=CALM)
    model = next(each for each in planned if each.need.kind is ArtifactKind.MODEL)
    assert [holder.site_id for holder in model.need.holders] == ["dear"]
    assert model.need.size_bytes == MODEL.size_bytes
    # 40 GB at 0.05 $ egress and 0.0065 kWh x 100 g x 0.5 $/kg of carbon each.
    assert model.price_usd == pytest.approx(40 * (0.05 + 0.0065 * 0.1 * 0.5))
    assert model.score_usd > 0
    assert "48 h" in model.why


def test_what_is_there_is_not_brought_again() -> None:
    assert copies_of(replace(CHEAP, copies=DEAR.copies), DEAR) == []


def test_what_is_on_its_way_counts_as_there() -> None:
    coming = tuple(replace(copy, is_complete=False) for copy in DEAR.copies)
    assert copies_of(replace(CHEAP, copies=coming), DEAR) == []


def test_little_demand_pays_for_nothing() -> None:
    few = replace(DEAR, submissions=DEAR.submissions[:6], submission_count=6)
    short = replace(few, submissions=tuple(task(number, hours=0.1) for number in range(6)))
    assert copies_of(CHEAP, short) == []


def test_a_full_site_gets_nothing() -> None:
    assert copies_of(replace(CHEAP, pools=outlook("x", rate=1.0, load=64.0).pools), DEAR) == []


def test_a_site_without_pools_gets_nothing_and_gives_what_lies_there() -> None:
    gone = replace(outlook("gone", rate=0.01, holds=(MODEL, DATA)), pools=())
    bare = replace(DEAR, copies=())
    planned = copies_of(CHEAP, bare, gone)
    assert planned
    assert "gone" not in {site for site, _ in planned}


def test_a_site_of_another_gpu_type_is_no_place_for_tasks_that_it_cannot_run() -> None:
    other = replace(CHEAP, pools=(replace(CHEAP.pools[0], type="A100"),))
    assert copies_of(other, DEAR) == []


def test_of_two_pools_the_cheaper_one_serves() -> None:
    slow = replace(CHEAP.pools[0], type="A100", gpu_count=8)
    tasks = tuple(
        task(n, runs=(ExpectedRun("H100", 2.0, 0.0), ExpectedRun("A100", 20.0, 0.0)))
        for n in range(80)
    )
    both = replace(CHEAP, pools=(slow, *CHEAP.pools))
    assert sorted(copies_of(both, replace(DEAR, submissions=tasks))) == sorted(
        copies_of(CHEAP, replace(DEAR, submissions=tasks))
    )


def test_tasks_without_model_or_data_take_room_and_want_nothing() -> None:
    bare = tuple(task(n, model_id=None, data_id=None) for n in range(80))
    assert copies_of(CHEAP, replace(DEAR, submissions=bare)) == []
    half = tuple(task(n, data_id=None) for n in range(80))
    assert copies_of(CHEAP, replace(DEAR, submissions=half)) == [("cheap", "llama")]


def test_what_nobody_holds_is_planned_nowhere() -> None:
    assert copies_of(CHEAP, replace(DEAR, copies=())) == []


def test_nothing_remembered_plans_nothing() -> None:
    assert copies_of(CHEAP, outlook("dear", rate=0.5, holds=(MODEL, DATA))) == []


def test_a_site_alone_plans_nothing() -> None:
    assert copies_of(DEAR) == []


def test_a_size_that_one_site_tells_otherwise_is_outvoted() -> None:
    lie = (replace(MODEL, size_bytes=1), DATA)
    planned = planned_copies(
        outlooks := [CHEAP, DEAR, replace(CHEAP, site_id=SiteId("liar"), artifacts=lie)],
        remembered(outlooks),
        TARIFF,
        settings=CALM,
    )
    assert {each.need.size_bytes for each in planned} <= {MODEL.size_bytes, DATA.size_bytes}


def test_what_was_left_out_of_a_message_weighs_in_what_was_told() -> None:
    told = remembered([replace(DEAR, submission_count=800)])
    assert told.weight == pytest.approx(10 * remembered([DEAR]).weight)
    drawn = remembered([DEAR], count_max=20)
    assert len(drawn.tasks) == 20
    assert drawn.weight == pytest.approx(4 * remembered([DEAR]).weight)


@settings(max_examples=20)
@given(st.permutations(range(4)))
def test_the_same_outlooks_give_the_same_plan_in_any_order(order: list[int]) -> None:
    world = [
        CHEAP,
        DEAR,
        outlook("mid", *(task(n) for n in range(100, 150)), rate=0.2),
        replace(outlook("other", rate=0.06), zone="X"),
    ]
    assert copies_of(*(world[i] for i in order)) == copies_of(*world)


def test_sizes_of_a_scaled_world_are_charged_as_the_world_counts() -> None:
    scaled = replace(TARIFF, byte_ratio=100.0)
    assert scaled.usd_per_gb(DEAR, CHEAP) == pytest.approx(100 * TARIFF.usd_per_gb(DEAR, CHEAP))
    outlooks = [CHEAP, DEAR]
    assert planned_copies(outlooks, remembered(outlooks), scaled, settings=CALM) == ()


def test_the_true_demand_is_taken_as_it_comes() -> None:
    expected = replace(remembered([DEAR]), start_h=np.linspace(0.0, 47.0, 80), weight=1.0)
    planned = planned_copies([CHEAP, DEAR], expected, TARIFF, settings=CALM)
    assert {each.site_id for each in planned} == {"cheap"}
