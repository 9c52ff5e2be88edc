"""`gcos evaluate` with a simulator that adds up a few sums instead of simulating."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

import gcos
from gcos.accounting import Charge
from gcos.cli.invocation import Format
from gcos.cli.output import Output
from gcos.errors import GcosError, InvalidRequestError, NotFoundError
from testbed import evaluate_table, run_store
from testbed.evaluate import (
    Pair,
    RunOrder,
    available_weeks_s,
    make_runs,
    monday_s,
    pairs,
    run_orders,
)
from testbed.evaluate_commands import _caches, run_evaluation, show
from testbed.evaluation import SCHEMA, Evaluation, evaluation
from testbed.instances import draw
from testbed.run_store import RunRecord, code_digest, run_digest
from testbed.scenarios import load_scenario
from testbed.sim.instance import Instance
from testbed.sim.result import Lookups, RunResult, Totals
from testbed.world import load_world

MONDAYS_S = (1_704_067_200.0, 1_704_672_000.0)  # 2024-01-01 and 2024-01-08
FACTORS = {"joint": 1.0, "locality": 1.9, "random": 3.0, "oracle-demand": 0.9, "central": 0.8}


def result(instance: Instance, policy: str, cache_mode: str) -> RunResult:
    """Each task costs a dollar of electricity times the policy's factor, and one in ten is late."""
    count = len(instance.tasks)
    charge = Charge(
        energy_usd=FACTORS[policy] * count, compute_gco2=500.0 * count, transfer_bytes=10**9
    )
    totals = Totals(
        charge,
        idle=Charge(energy_kwh=7.0),
        task_count=count,
        miss_count=count // 10,
        wait_mean_s=60.0,
        wait_p95_s=600.0,
        models=Lookups(3, 1),
        data_sets=Lookups(),
    )
    return RunResult(policy, cache_mode, totals, totals, count, wall_s=0.1, trace_hash="00")


@dataclass
class Simulator:
    """Counts its calls, and fails or is interrupted at one of them."""

    calls: list[str] = field(default_factory=list)
    error_at: int = -1
    error: type[BaseException] = KeyboardInterrupt

    def __call__(
        self, instance: Instance, *, policy: str, cache_mode: str, log: Path | None
    ) -> RunResult:
        if len(self.calls) == self.error_at:
            raise self.error("stop")
        self.calls.append(f"{policy} {instance.seed}")
        if log is not None:
            (log / "reported.json").write_text("{}")
        return result(instance, policy, cache_mode)


def orders(
    policies: tuple[str, ...] = ("joint", "locality"),
    seeds: int = 3,
    out: Path | None = None,
    export: Path | None = None,
    code: str = "code",
    cache_modes: tuple[str, ...] = ("dual",),
) -> tuple[RunOrder, ...]:
    scenario = load_scenario("load-low")
    few = dataclasses.replace(scenario.workload, load=0.02)
    return run_orders(
        dataclasses.replace(scenario, workload=few),
        data=None,
        policies=policies,
        pairs=pairs(MONDAYS_S, seeds),
        cache_modes=cache_modes,
        code=code,
        out=out,
        export=export,
    )


def runs(simulate: Simulator, which: tuple[RunOrder, ...]) -> list[RunRecord]:
    return make_runs(which, simulate, job_count=1, tell=lambda record: None)


@pytest.fixture(scope="module")
def found() -> Evaluation:
    records = runs(Simulator(), orders(("joint", "locality", "random"), seeds=4))
    return evaluation(records, baseline="locality", data="")


def test_seed_i_meets_week_i_modulo_the_weeks() -> None:
    first, second = MONDAYS_S
    assert pairs(MONDAYS_S, 3) == (Pair(first, 1), Pair(second, 2), Pair(first, 3))
    assert pairs(MONDAYS_S, 5)[:3] == pairs(MONDAYS_S, 3)
    with pytest.raises(InvalidRequestError, match="seeds"):
        pairs(MONDAYS_S, 0)
    with pytest.raises(InvalidRequestError, match="no week"):
        pairs((), 1)


def test_policies_meet_the_same_pairs() -> None:
    simulate = Simulator()
    runs(simulate, orders(seeds=2))
    assert simulate.calls == ["joint 1", "locality 1", "joint 2", "locality 2"]


def test_the_runs_of_fewer_seeds_are_the_first_of_those_of_more() -> None:
    few, many = (orders(seeds=count, cache_modes=("dual", "none")) for count in (2, 3))
    assert (len(few), len(many)) == (8, 12)
    assert many[:8] == few


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    interrupted, resumed = Simulator(error_at=2), Simulator()
    with pytest.raises(KeyboardInterrupt):
        runs(interrupted, orders(out=tmp_path))
    records = runs(resumed, orders(out=tmp_path))
    assert (len(interrupted.calls), len(resumed.calls)) == (2, 4)
    assert records == runs(Simulator(), orders())
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


def test_what_decides_a_run_decides_its_digest(tmp_path: Path) -> None:
    runs(Simulator(), orders(out=tmp_path))
    for changed in (
        orders(out=tmp_path, code="other"),
        orders(out=tmp_path, cache_modes=("none",)),
        orders(out=tmp_path, policies=("random",)),
    ):
        again = Simulator()
        runs(again, changed)
        assert len(again.calls) == len(changed)


def test_another_world_or_scenario_is_another_run() -> None:
    def digest(name: str, seed: int = 1, week: int = 0) -> str:
        instance = draw(
            load_scenario(name), load_world(None), week_start_s=MONDAYS_S[week], seed=seed
        )
        return run_digest(instance, policy="joint", cache_mode="dual", code="")

    variants = ("default", "cache-tenth", "egress-dear", "slack-half", "network-stress")
    digests = [digest(name) for name in variants]
    digests += [digest("default", seed=2), digest("default", week=1)]
    assert len(set(digests)) == len(digests)
    assert digest("default") == digests[0]


def test_the_digest_of_the_code_covers_the_cores_and_not_the_command_line() -> None:
    root = Path(gcos.__file__).parent.parent
    files = {
        path.relative_to(root).as_posix() for path in run_store._files_behind("testbed.sim.run")
    }
    assert {
        "gcos/accounting.py",
        "policies/catalogue.py",
        "site_agent/participant.py",
        "site_agent/dual_cache.py",
        "testbed/sim/engine.py",
    } <= files
    assert not any(file.startswith(("gcos/cli/", "gcos/v1/")) for file in files)
    assert code_digest() == code_digest()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    runs(Simulator(), orders(out=tmp_path))
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    with pytest.raises(GcosError, match="remove the file"):
        runs(Simulator(), orders(out=tmp_path))


def test_a_kept_run_is_made_again_for_an_export_that_lacks_it(tmp_path: Path) -> None:
    out, export = tmp_path / "out", tmp_path / "export"
    out.mkdir()
    runs(Simulator(), orders(out=out))
    first, second = Simulator(), Simulator()
    runs(first, orders(out=out, export=export))
    runs(second, orders(out=out, export=export))
    assert (len(first.calls), second.calls) == (6, [])
    names = sorted(path.name for path in export.iterdir())
    assert names[0] == "joint-dual-2024-01-01-seed1"
    assert {path.name for path in (export / names[0]).iterdir()} == {"reported.json", "run.json"}


def test_a_failed_run_says_which_one_it_was() -> None:
    with pytest.raises(GcosError, match="joint in the week of 2024-01-08 with seed 2 of load-low"):
        runs(Simulator(error_at=2, error=ValueError), orders())


def test_impossible_orders_are_refused_before_anything_runs() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean joint"):
        orders(policies=("joitn",))
    with pytest.raises(InvalidRequestError, match="once"):
        orders(policies=("joint", "joint"))
    with pytest.raises(InvalidRequestError, match="one of dual"):
        orders(cache_modes=("both",))
    with pytest.raises(InvalidRequestError, match="jobs"):
        make_runs(orders(), Simulator(), job_count=0, tell=lambda record: None)


def test_weeks_are_named_by_their_monday_or_number() -> None:
    assert monday_s("2024-01-08") == monday_s("2024-W02") == MONDAYS_S[1]
    for text in ("2024-01-09", "next week"):
        with pytest.raises(InvalidRequestError, match="is no week"):
            monday_s(text)


def test_a_span_without_a_week_is_refused() -> None:
    scenario, world = load_scenario("default"), load_world(None)
    weeks, refused = available_weeks_s(scenario, world, date(2024, 1, 1), date(2024, 1, 14))
    assert (weeks, refused) == (MONDAYS_S, ())
    with pytest.raises(NotFoundError, match="no Monday"):
        available_weeks_s(scenario, world, date(2024, 1, 2), date(2024, 1, 3))
    with pytest.raises(InvalidRequestError, match="before"):
        available_weeks_s(scenario, world, date(2024, 1, 2), date(2024, 1, 1))


PARALLEL = """
    import json, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_evaluate import make_runs, orders, slow
    if __name__ == "__main__":
        which = orders(out=Path({out!r}))
        records = make_runs(which, slow, job_count=2, tell=lambda record: print("ran", flush=True))
        print(json.dumps([[r.policy, r.seed, r.result.trace_hash] for r in records]))
"""


def slow(instance: Instance, *, policy: str, cache_mode: str, log: Path | None) -> RunResult:
    """Hang, once told to, in the last run."""
    if os.environ.get("HANG") and (policy, instance.seed) == ("locality", 3):
        signal.pause()
    threads = os.environ["OMP_NUM_THREADS"]
    assert threads == "1"
    return result(instance, policy, cache_mode)


def parallel(directory: Path, **environ: str) -> "subprocess.Popen[str]":
    script = directory / "parallel.py"
    tests = str(Path(__file__).parent)
    script.write_text(textwrap.dedent(PARALLEL).format(tests=tests, out=str(directory)))
    return subprocess.Popen(
        [sys.executable, str(script)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = parallel(tmp_path, HANG="1")
    yield process
    process.kill()
    process.communicate()


def test_processes_find_what_one_process_finds_and_an_interrupt_keeps_what_ended(
    tmp_path: Path, hanging: "subprocess.Popen[str]"
) -> None:
    assert hanging.stdout is not None
    for _ in range(5):
        assert hanging.stdout.readline() == "ran\n", hanging.stderr
    hanging.send_signal(signal.SIGINT)
    _, told = hanging.communicate(timeout=60)
    assert "KeyboardInterrupt" in told
    assert len(list(tmp_path.glob("*.json"))) == 5

    again = parallel(tmp_path)
    words, told = again.communicate(timeout=60)
    assert again.returncode == 0, told
    one = [[r.policy, r.seed, r.result.trace_hash] for r in runs(Simulator(), orders())]
    assert json.loads(words.splitlines()[-1]) == one
    assert len(list(tmp_path.glob("*.json"))) == 6


def test_processes_end_with_one_that_is_killed(hanging: "subprocess.Popen[str]") -> None:
    assert hanging.stdout is not None
    assert hanging.stdout.readline() == "ran\n"
    hanging.kill()
    # Returns when the last one that holds the output has ended.
    hanging.communicate(timeout=60)


def test_means_and_differences_are_those_of_the_runs(found: Evaluation) -> None:
    joint, locality, random = found.policies
    counts = [run.result.measured.task_count for run in found.runs if run.policy == "joint"]
    mean_count = sum(counts) / 4
    assert joint.energy_usd == pytest.approx(mean_count)
    # J is a dollar, and half a kilogram at 0.2 $/kg.
    assert joint.joint_usd.mean == pytest.approx(1.1 * mean_count)
    assert joint.carbon_kg.mean == pytest.approx(0.5 * mean_count)
    assert (joint.model_hit_percent, joint.data_hit_percent) == (75.0, None)
    assert joint.joint_vs_baseline is not None
    assert joint.joint_vs_baseline.relative_percent is not None
    assert joint.joint_vs_baseline.relative_percent.mean == pytest.approx(100 * (1.1 / 2.0 - 1))
    assert joint.joint_vs_baseline.win_count == 4
    assert locality.joint_vs_baseline is None
    assert random.joint_vs_baseline is not None
    assert random.joint_vs_baseline.is_worse


def test_the_table_names_scope_prices_weeks_and_seeds(
    found: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    show(found, Output())
    text = capsys.readouterr().out
    for words in (
        "scenario load-low, caches dual; carbon price 0.200 $/kg; network 0.00650 kWh/GB",
        "cost (operator): electricity, egress, penalty and storage",
        "typical days of the shipped tables",
        "4 runs a policy: seeds 1 to 4; 2 weeks from 2024-01-01, 2024-01-08",
        "Tasks are synthetic",
        "J VS LOCALITY %",
        "-45.0 [-45.0, -45.0]",
        "random is worse than locality",
        "4/4",
    ):
        assert words in text


def test_json_is_the_whole_evaluation(
    found: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    show(found, Output(format=Format.JSON))
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == SCHEMA
    assert len(document["runs"]) == 12
    assert document["policies"][0]["joint_vs_baseline"]["relative_percent"]["interval"]["low"] < 0


def test_names_are_policies_the_best_one_first(
    found: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    show(found, Output(format=Format.NAME))
    assert capsys.readouterr().out.split() == ["joint", "locality", "random"]


def test_one_week_gives_no_interval() -> None:
    records = runs(Simulator(), orders(seeds=1))
    notes = evaluate_table.notes(evaluation(records, baseline="joint", data=""))
    assert any("One week gives no interval" in note for note in notes)


def test_off_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    run_evaluation(
        orders(seeds=1), Simulator(), job_count=1, baseline="joint", refused=(), out=Output()
    )
    assert capsys.readouterr().err == ""


def test_cache_modes_are_compared_as_variants_of_a_policy() -> None:
    """Against the first of them, pair by pair."""
    records = runs(Simulator(), orders(("locality",), cache_modes=("dual", "none")))
    found = evaluation(records, baseline="locality/dual", data="")
    assert [each.policy for each in found.policies] == ["locality/dual", "locality/none"]
    assert (found.cache_mode, found.baseline) == ("dual,none", "locality/dual")
    dual, none = found.policies
    assert dual.joint_vs_baseline is None
    assert none.joint_vs_baseline is not None
    assert none.joint_vs_baseline.difference.count == 3
    assert found.seeds == (1, 2, 3)


def test_what_knows_the_future_is_marked_as_such() -> None:
    which = orders(("joint", "oracle-demand"), cache_modes=("dual", "dual+belady"))
    records = runs(Simulator(), which)
    found = evaluation(records, baseline="joint/dual", data="")
    assert [row[0] for row in evaluate_table.table(found).rows] == [
        "joint/dual",
        "oracle-demand/dual (clairvoyant)",
        "joint/dual+belady (clairvoyant)",
        "oracle-demand/dual+belady (clairvoyant)",
    ]
    told = "\n".join(evaluate_table.notes(found))
    assert "oracle-demand knows the future: a yardstick" in told
    assert "caches dual+belady: the eviction knows the future" in told


def test_an_ablation_that_sees_all_sites_is_marked_as_such() -> None:
    found = evaluation(runs(Simulator(), orders(("joint", "central"))), baseline="joint", data="")
    told = "\n".join(evaluate_table.notes(found))
    assert "central ranks the offers of all sites together: an ablation" in told


def test_each_cache_mode_meets_each_eviction() -> None:
    assert _caches(("dual", "none"), ("value", "lru")) == ("dual", "dual+lru", "none", "none+lru")
    assert _caches(("dual+lru",), ("value",)) == ("dual+lru",)
    for evictions in ((), ("lru", "lru"), ("lur",)):
        with pytest.raises(InvalidRequestError) as caught:
            _caches(("dual",), evictions)
        assert caught.value.field == "eviction"
