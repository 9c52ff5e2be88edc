"""What a site wishes to copy, and what its gate lets through."""

from dataclasses import replace

import pytest

from gcos.accounting import Charge
from gcos.artifacts import Artifact, ArtifactKind
from gcos.contract_net import Announcement, ArtifactNeed, Fetch, Holder, Rejection
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId
from gcos.tasks import GpuRequest, Work, WorkKind
from policies.migrators import Popularity, Regret
from site_agent.dual_cache import DualCache
from site_agent.migration import PULL_COUNT_MAX, Budget, Migration, Pull
from testbed.samples import DE, PREDICTION, TERMS, bid_of

GB = 10**9
MODEL = ArtifactKind.MODEL
SOURCE = Holder(SiteId("de"), "DE", "de:1", 300.0)


def need(number: int, size_gb: int = 10) -> ArtifactNeed:
    known = ArtifactId(f"sha256:{number:064x}")
    return ArtifactNeed(known, MODEL, f"m{number}", size_gb * GB, (SOURCE,))


def copies(
    *, model_gb: int = 100, budget: Budget | None = None, popularity: bool = False
) -> Migration:
    migrator = Popularity() if popularity else Regret()
    return Migration(DualCache(model_gb * GB, 100 * GB), migrator, budget or Budget())


def lose(
    migration: Migration,
    wanted: ArtifactNeed,
    *,
    with_copies: float = 1.0,
    winning: float = 4.0,
    best: float | None = None,
    transfer: float = 1.0,
    now_s: float = 0.0,
) -> tuple[Pull, ...]:
    """Bid for a task that lacks one artifact here, and lose it."""
    task_id = TaskId("de-1")
    announcement = Announcement(
        task_id=task_id,
        fence=Fence(1, 1),
        origin=DE,
        gpu=GpuRequest(gpu_count=1),
        work=Work(WorkKind.CUSTOM),
        needs=(wanted,),
        predictions=(PREDICTION,),
        terms=TERMS,
    )
    fetch = Fetch(
        wanted.artifact_id, wanted.name, wanted.size_bytes, SOURCE, 60.0, transfer, carbon_gco2=0.0
    )
    bid = replace(
        bid_of(DE, task_id=task_id, offer_usd=with_copies + transfer),
        charge=Charge(transfer_usd=transfer, transfer_bytes=wanted.size_bytes),
        fetches=(fetch,),
    )
    migration.offered(announcement, bid)
    rejection = Rejection(
        task_id=task_id,
        winner=SiteId("tex"),
        winning_offer_usd=winning,
        offer_usd=bid.offer_usd,
        best_with_copies_usd=with_copies if best is None else best,
    )
    return migration.rejected(rejection, now_s=now_s)


def store(migration: Migration, number: int, size_gb: int, *, uses: int, price: float) -> None:
    wanted = need(number, size_gb)
    artifact = Artifact(wanted.artifact_id, MODEL, wanted.name, wanted.size_bytes)
    migration.cache.reserve(artifact, now_s=0.0)
    migration.cache.insert(wanted.artifact_id)
    migration.cache.price(wanted.artifact_id, price)
    for i in range(uses):
        migration.cache.hit(wanted.artifact_id, RunId(f"r{i}"), now_s=0.0)


def test_losses_that_would_have_paid_for_the_transfer_make_a_pull() -> None:
    migration = copies()
    (pull,) = lose(migration, need(1), winning=4.0, with_copies=1.0)
    assert pull.need == need(1)
    assert "3 $" in pull.why
    assert migration.pulling == {need(1).artifact_id}
    (decision,) = migration.decisions
    assert (decision.is_granted, decision.name) == (True, "m1")
    assert lose(migration, need(1)) == (), "it is on its way"


def test_savings_below_the_price_add_up_and_fade() -> None:
    migration = copies()
    assert lose(migration, need(1), winning=1.6) == ()
    assert lose(migration, need(1), winning=1.6, now_s=360.0) != ()
    late = copies()
    assert lose(late, need(1), winning=1.6) == ()
    assert lose(late, need(1), winning=1.6, now_s=30 * 86_400.0) == (), "a month has passed"


def test_only_the_loser_who_would_have_won_is_credited() -> None:
    """Another would have been cheaper still with its copies: the task would have gone there."""
    assert lose(copies(), need(1), winning=9.0, with_copies=1.0, best=0.5) == ()


def test_who_would_have_lost_all_the_same_wants_nothing() -> None:
    assert lose(copies(), need(1), winning=0.9, with_copies=1.0) == ()


def test_a_task_won_or_never_offered_for_teaches_nothing() -> None:
    migration = copies()
    stranger = Rejection(TaskId("oslo-9"), SiteId("tex"), 9.0, 1.0)
    assert migration.rejected(stranger, now_s=0.0) == ()


def test_what_would_be_evicted_must_be_worth_less() -> None:
    for uses, is_pulled in ((1, True), (9, False)):
        migration = copies(model_gb=12)
        store(migration, 7, 10, uses=uses, price=1.0)
        assert bool(lose(migration, need(1), winning=4.0)) == is_pulled
        if not is_pulled:
            assert "would evict is worth 9" in migration.decisions[-1].why


def test_what_is_larger_than_the_cache_or_has_no_room_stays_away() -> None:
    migration = copies(model_gb=5)
    assert lose(migration, need(1, size_gb=10)) == ()
    assert "larger than the cache" in migration.decisions[-1].why
    full = copies(model_gb=12)
    store(full, 7, 10, uses=0, price=0.0)
    full.cache.pin(need(7).artifact_id, RunId("r"))
    assert lose(full, need(1)) == ()
    assert "in use" in full.decisions[-1].why


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(bytes_a_day=15 * GB), "15 GB"),
        (Budget(usd_a_day=1.5), "1.5 $"),
    ],
)
def test_a_spent_budget_stops_pulls_until_a_day_has_passed(budget: Budget, words: str) -> None:
    migration = copies(budget=budget)
    assert lose(migration, need(1))
    migration.ended(need(1).artifact_id)
    assert lose(migration, need(2)) == ()
    assert words in migration.decisions[-1].why
    assert lose(migration, need(2), now_s=86_400.0)


def test_few_pulls_go_on_at_the_same_time() -> None:
    migration = copies()
    for number in range(PULL_COUNT_MAX):
        assert lose(migration, need(number + 1, size_gb=1))
    assert lose(migration, need(99, size_gb=1)) == ()
    migration.ended(need(1).artifact_id)
    assert lose(migration, need(99, size_gb=1))


def test_popularity_pulls_what_is_used_much_elsewhere_and_has_been_announced() -> None:
    migration = copies(popularity=True)
    lose(migration, need(1))
    known = need(1).artifact_id
    migration.cache.demand.hear({known: 30.0, need(2).artifact_id: 90.0})
    (pull,) = migration.beat(now_s=0.0)
    assert pull.need.artifact_id == known


def test_a_refusal_is_told_once_an_hour_and_a_grant_at_once() -> None:
    migration = copies(model_gb=5)
    for now_s in (0.0, 60.0, 3700.0):
        lose(migration, need(1, size_gb=10), now_s=now_s)
    assert [each.at_s for each in migration.untold] == [0.0, 3700.0]
    lose(migration, need(2, size_gb=1), now_s=3700.0)
    assert migration.untold[-1].is_granted


def test_a_copy_that_another_asks_for_passes_the_same_gate() -> None:
    wanted = need(1)
    fetch = Fetch(
        wanted.artifact_id, wanted.name, wanted.size_bytes, SOURCE, 60.0, 1.0, carbon_gco2=0.0
    )
    assert copies().asked(wanted, fetch, 1.0, "custody", now_s=0.0) == (Pull(wanted, "custody"),)
    assert copies(model_gb=5).asked(wanted, fetch, 1.0, "custody", now_s=0.0) == ()


def test_a_decision_names_the_task_that_tipped_it() -> None:
    migration = copies()
    (pull,) = lose(migration, need(1), with_copies=1.0, winning=4.0)
    assert pull.task_id == TaskId("de-1")
    assert [each.task_id for each in migration.decisions] == [TaskId("de-1")]
