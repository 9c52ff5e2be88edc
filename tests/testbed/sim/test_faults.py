"""What goes wrong by chance delays and costs, and loses or doubles nothing (I1, I2, I10)."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.signals import HOUR_S
from policies.catalogue import POLICIES
from testbed.sim.instance import Churn, ChurnKind, Faults, Instance
from testbed.sim.mishaps import Mishaps
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from testbed.sim.simulation import Simulation
from tests.testbed.sim.test_simulation import NAMES, simulated

Line = dict[str, object]

BUSY = Sample(task_count=60, tasks_per_h=12.0, rtt_s=0.1)
#: Where everything fits, so that nothing is streamed without a fault.
ROOMY = replace(BUSY, model_cache_gb=1e3, data_cache_gb=1e3)
EACH = {
    "loss": Faults(message_loss_ratio=0.3),
    "delay": Faults(message_delay_s=5.0),
    "crashes": Faults(crash_per_h=0.2, restart_s=1800.0),
    "corruption": Faults(corrupt_ratio=0.3),
    "full disks": Faults(disk_full_ratio=0.3),
}
ALL = Faults(
    message_loss_ratio=0.2,
    message_delay_s=1.0,
    crash_per_h=0.2,
    restart_s=900.0,
    corrupt_ratio=0.1,
    disk_full_ratio=0.1,
)


def lines_of(faults: Faults, policy: str = "joint", sample: Sample = BUSY) -> list[Line]:
    """Run with every check on, the independent one too, and return the lines of the log."""
    return simulated(replace(instance_of(sample), faults=faults), policy)[1]


def count(lines: list[Line], **wanted: object) -> int:
    return sum(all(line[key] == value for key, value in wanted.items()) for line in lines)


@pytest.mark.parametrize("policy", ["random", "joint-lookahead", "rule"])
@pytest.mark.parametrize("kind", EACH)
def test_no_fault_loses_or_doubles_a_task(kind: str, policy: str) -> None:
    lines_of(EACH[kind], policy)


@given(seed=st.integers(0, 1000), policy=st.sampled_from(NAMES), takes_time=st.booleans())
@settings(max_examples=12, deadline=None)
def test_all_faults_at_once_lose_or_double_no_task(
    seed: int, policy: str, takes_time: bool
) -> None:
    churn = (
        Churn(START_S + 1.5 * HOUR_S, ChurnKind.LEAVE, site_id(0)),
        Churn(START_S + 2.5 * HOUR_S, ChurnKind.JOIN, site_id(0)),
    )
    sample = replace(BUSY, seed=seed, task_count=25, churn=churn)
    instance = replace(instance_of(sample), faults=ALL)
    simulated(instance, policy, is_instant=not takes_time)


def test_a_lost_message_is_sent_again_or_done_without() -> None:
    calm, _ = simulated(instance_of(BUSY))
    rough, _ = simulated(replace(instance_of(BUSY), faults=EACH["loss"]))
    waits = [run.books.totals(run.books.whole).wait_mean_s for run in (calm, rough)]
    assert rough.engine.event_count > calm.engine.event_count
    assert waits[1] > waits[0]


def test_where_no_message_comes_through_for_long_the_next_one_counts() -> None:
    lines = lines_of(Faults(message_loss_ratio=0.9), sample=replace(BUSY, task_count=15))
    assert count(lines, e="run") == 15


def crashes_h(instance: Instance) -> list[tuple[str, float]]:
    """Return sites and the hours at which they crash, as the log writes them."""
    crashes = Mishaps(instance).crashes()
    return [(site, (at_s - instance.start_s) / HOUR_S) for at_s, site in crashes]


def site_of(line: Line) -> str:
    return site_id(int(str(line["site"])))


def test_a_crash_kills_what_runs_and_keeps_what_is_stored() -> None:
    instance = replace(instance_of(BUSY), faults=EACH["crashes"])
    _, lines = simulated(instance)
    crashes = crashes_h(instance)
    aborted = [line for line in lines if line["e"] == "abort"]
    assert aborted
    assert {(site_of(line), line["t1"]) for line in aborted} <= set(crashes)
    attempts = Counter(line["task"] for line in lines if line["e"] in ("run", "abort"))
    assert all(attempts[line["task"]] >= 2 for line in aborted)
    # Who comes back empty has all copies evicted at that instant.
    backs_h = {at_h + 0.5 for _, at_h in crashes}
    assert not {line["t"] for line in lines if line["e"] == "evict"} & backs_h


def test_a_site_that_crashed_runs_nothing_until_it_is_back() -> None:
    instance = replace(instance_of(BUSY), faults=replace(EACH["crashes"], restart_s=7200.0))
    _, lines = simulated(instance)
    crashes = crashes_h(instance)
    assert crashes
    # A crash while it is away moves nothing: the first one of each site is sure to count.
    for site, at_h in dict(reversed(crashes)).items():
        starts_h = [float(str(line["t0"])) for line in lines if line["e"] in ("run", "abort")]
        here = [site_of(line) == site for line in lines if line["e"] in ("run", "abort")]
        while_away = [at_h < start_h < at_h + 2.0 for start_h in starts_h]
        assert not any(is_here and away for is_here, away in zip(here, while_away, strict=True))


def test_a_corrupt_copy_is_paid_and_brought_again() -> None:
    calm, rough = (lines_of(each, sample=ROOMY) for each in (Faults(), EACH["corruption"]))
    assert count(calm, e="transfer", stored=False) == 0
    refused = [line for line in rough if line["e"] == "transfer" and not line["stored"]]
    assert refused
    for line in refused:
        again = [
            other
            for other in rough
            if other["e"] == "transfer"
            and (other["dst"], other["artifact"], other["t0"])
            == (line["dst"], line["artifact"], line["t1"])
        ]
        assert again, "nobody brings it again"


def test_what_a_full_disk_has_no_room_for_is_streamed_and_paid_each_time() -> None:
    lines = lines_of(Faults(disk_full_ratio=1.0), "random", ROOMY)
    assert count(lines, e="transfer", stored=False) > 0
    assert count(lines, e="transfer", stored=True) == 0


def test_one_kind_of_fault_does_not_move_the_draws_of_another() -> None:
    alone = Mishaps(replace(instance_of(BUSY), faults=EACH["corruption"]))
    among = Mishaps(replace(instance_of(BUSY), faults=replace(ALL, corrupt_ratio=0.3)))
    drawn = []
    for mishaps in (alone, among):
        drawn.append([])
        for _ in range(50):
            mishaps.is_lost()
            mishaps.delay_s()
            mishaps.is_disk_full()
            drawn[-1].append(mishaps.is_corrupt())
    assert drawn[0] == drawn[1]
    assert any(drawn[0])


def test_nothing_crashes_after_the_measured_window() -> None:
    instance = replace(instance_of(BUSY), faults=Faults(crash_per_h=50.0))
    crashes = Mishaps(instance).crashes()
    assert len(crashes) > 100
    assert crashes == tuple(sorted(crashes))
    begin_s, end_s = instance.start_s, instance.measured_s[1]
    assert all(begin_s <= at_s < end_s for at_s, _ in crashes)


SCRIPT = """
import json
from dataclasses import replace
from policies.catalogue import POLICIES
from testbed.sim.samples import Sample, instance_of
from testbed.sim.simulation import Simulation
from testbed.sim.instance import Faults
faults = Faults(0.2, 1.0, 0.2, 900.0, 0.1, 0.1)
run = Simulation(replace(instance_of(Sample(task_count=40, tasks_per_h=12.0)), faults=faults),
                 POLICIES["rule"])
run.run()
print(json.dumps([run.books.trace_hash, run.engine.event_count]))
"""


def test_the_same_seed_gives_the_same_faults_in_any_process() -> None:
    found = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", SCRIPT],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for hash_seed in ("0", "7")
    ]
    assert found[0] == found[1]
    calm = Simulation(instance_of(Sample(task_count=40, tasks_per_h=12.0)), POLICIES["rule"])
    calm.run()
    assert calm.books.trace_hash != found[0][0]
