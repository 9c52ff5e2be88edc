import math
from dataclasses import replace
from pathlib import Path

import pytest

from gcos.errors import InvalidRequestError
from gcos.ids import ArtifactId, SiteId
from policies.evictors import Belady, evictor_named
from policies.interface import CachedItem
from site_agent.config import AgentConfig, completed
from testbed import cores
from testbed.sim.cache_modes import CacheMode, Caches, caches_named
from testbed.sim.next_use import NextUse
from testbed.sim.run import simulate
from testbed.sim.samples import Sample, instance_of

#: Its caches are full, so evictors differ.
TINY = instance_of(Sample(task_count=60, tasks_per_h=1.0, seed=2, data_cache_gb=25.0))


@pytest.mark.parametrize(
    ("name", "caches"),
    [
        ("dual", Caches()),
        ("none", Caches(CacheMode.NONE)),
        ("dual+value", Caches()),
        ("coupled+lru", Caches(CacheMode.COUPLED, "lru")),
        ("dual+belady", Caches(eviction="belady")),
    ],
)
def test_caches_have_names(name: str, caches: Caches) -> None:
    assert caches_named(name) == caches
    assert caches_named(str(caches)) == caches


@pytest.mark.parametrize(
    ("name", "field", "near"),
    [
        ("dula", "cache_mode", "dual"),
        ("dual+", "eviction", "belady"),
        ("dual+beladi", "eviction", "belady"),
        ("+lru", "cache_mode", "coupled"),
    ],
)
def test_caches_that_there_are_not_are_refused(name: str, field: str, near: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        caches_named(name)
    assert caught.value.field == field
    assert near in (caught.value.hint or "")


def test_the_next_use_is_the_next_arrival_anywhere() -> None:
    now_s = [TINY.start_s]
    future = NextUse(TINY, lambda: now_s[0])
    for task in TINY.tasks:
        before = [each for each in TINY.tasks if each.model == task.model]
        now_s[0] = task.arrival_s - 1e-3
        assert future.at_s(ArtifactId(task.model)) == task.arrival_s
        now_s[0] = before[-1].arrival_s
        assert future.at_s(ArtifactId(task.model)) == math.inf
    assert future.at_s(ArtifactId("sha256:" + "0" * 64)) == math.inf


def test_what_is_used_again_last_goes_first() -> None:
    item = CachedItem(
        ArtifactId("a"),
        size_bytes=1,
        last_used_s=0.0,
        use_count=9,
        demand=9.0,
        rate_per_h=9.0,
        elsewhere=0.0,
        refetch_usd=9.0,
        mark=0.0,
    )
    uses_s = {"soon": 1.0, "late": 2.0, "never": math.inf}
    evictor = Belady(lambda artifact_id: uses_s[artifact_id])
    order = sorted(uses_s, key=lambda each: evictor.worth(replace(item, artifact_id=each)))
    assert order == ["never", "late", "soon"]


def test_an_evaluation_may_know_the_future_of_evictions() -> None:
    plain = simulate(TINY, policy="random")
    told = simulate(TINY, policy="random", cache_mode="dual+belady")
    assert told.cache_mode == "dual+belady"
    assert told.whole.task_count == plain.whole.task_count
    moved_bytes = told.whole.charge.transfer_bytes
    assert moved_bytes < plain.whole.charge.transfer_bytes
    again = simulate(TINY, policy="random", cache_mode="dual+belady")
    assert again.trace_hash == told.trace_hash


def test_no_site_knows_the_future_of_evictions() -> None:
    with pytest.raises(InvalidRequestError, match="belady knows the future") as caught:
        evictor_named("belady")
    assert caught.value.field == "eviction"
    assert "value, lru, lfu, gdsf" in (caught.value.hint or "")


@pytest.mark.parametrize("eviction", ["belady", "mru"])
def test_an_agent_refuses_an_eviction_that_it_cannot_run(tmp_path: Path, eviction: str) -> None:
    config = AgentConfig(SiteId("de"), data_dir=tmp_path, token_file=tmp_path / "token")
    assert completed(replace(config, eviction="lru")).eviction == "lru"
    with pytest.raises(InvalidRequestError) as caught:
        completed(replace(config, eviction=eviction))
    assert caught.value.field == "eviction"


def test_the_compiled_core_runs_the_evictions_that_sites_run() -> None:
    pytest.importorskip("numba")
    full = simulate(TINY, policy="random", cache_mode="dual+lru")
    fast = cores.simulate(TINY, policy="random", cache_mode="dual+lru", log=None)
    assert (fast.core, fast.cache_mode) == ("fast", "dual+lru")
    assert fast.trace_hash == full.trace_hash
    assert fast.trace_hash != simulate(TINY, policy="random").trace_hash
    assert cores.simulate(TINY, policy="random", cache_mode="dual+belady").core == "full"
    with pytest.raises(InvalidRequestError, match="belady is not compiled"):
        cores.simulate_fast(TINY, policy="random", cache_mode="dual+belady")
