"""The compiled core behind the faces that others use."""

import ast
import concurrent.futures
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from gcos.errors import InvalidRequestError
from policies.catalogue import POLICIES
from testbed import cores
from testbed.fast import compiled
from testbed.fast.run import FastPolicy, FastWorld, fast_policy, run_fast, why_not
from testbed.sim.instance import Faults, Instance
from testbed.sim.result import RunResult
from testbed.sim.run import simulate as simulate_full
from testbed.sim.samples import Sample, instance_of
from tests.recheck.recheck import read_export, recheck

INSTANCE = instance_of(Sample(task_count=30))
FAULTY = replace(INSTANCE, faults=Faults(corrupt_ratio=0.1))


def same(one: RunResult, other: RunResult) -> bool:
    """Tell whether two runs of one core came to the same."""
    return replace(one, wall_s=0.0) == replace(other, wall_s=0.0)


@pytest.mark.parametrize("mode", ["dual", "coupled", "none"])
def test_an_outsider_finds_no_fault_in_the_three_files(tmp_path: Path, mode: str) -> None:
    result = cores.simulate_fast(INSTANCE, policy="rule", cache_mode=mode, log=tmp_path)
    verdict = recheck(read_export(tmp_path))
    assert not verdict.breaches, [str(breach) for breach in verdict.breaches]
    assert verdict.totals.energy_usd == pytest.approx(result.whole.charge.energy_usd, rel=1e-6)
    assert (result.core, result.policy, result.cache_mode) == ("fast", "rule", mode)


def test_both_cores_write_the_same_files(tmp_path: Path) -> None:
    for core in ("fast", "full"):
        (tmp_path / core).mkdir()
        cores.simulator(core)(INSTANCE, policy="joint", cache_mode="dual", log=tmp_path / core)
    for name in ("scenario.json", "log.jsonl"):
        assert (tmp_path / "fast" / name).read_text() == (tmp_path / "full" / name).read_text()


def test_a_world_may_be_run_again_and_again() -> None:
    world = FastWorld(INSTANCE)
    first = run_fast(world, FastPolicy("joint"))
    run_fast(world, FastPolicy("random"))
    assert same(run_fast(world, FastPolicy("joint")), first)
    assert first.trace_hash == "", "hashing takes as long as running"


def test_numbers_of_a_policy_count() -> None:
    world = FastWorld(instance_of(Sample(task_count=120, tasks_per_h=30.0)))
    rule = fast_policy("rule")
    plain = run_fast(world, rule)
    for changed in (
        replace(rule, reauction_usd=1e9),
        replace(rule, regret_ratio=0.01),
        replace(rule, rule="carbon-greedy", late_max=0.9),
    ):
        assert run_fast(world, changed).whole.charge != plain.whole.charge


def test_worlds_and_policies_can_be_handed_to_processes() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        there = pool.submit(run_fast, FastWorld(INSTANCE), fast_policy("rule")).result()
    assert same(there, run_fast(FastWorld(INSTANCE), fast_policy("rule")))
    assert pickle.loads(pickle.dumps(fast_policy("rule"))) == fast_policy("rule")


def test_every_policy_is_compiled_but_those_that_dispatch_batches() -> None:
    batches = {name for name, policy in POLICIES.items() if policy.dispatcher is not None}
    assert {name for name in POLICIES if why_not(INSTANCE, name) is not None} == batches


def test_a_policy_named_after_a_part_of_maccs_lacks_that_part_alone() -> None:
    whole = fast_policy("maccs")
    assert fast_policy("maccs-reauction") == replace(whole, gives_back_late=False) != whole
    assert fast_policy("maccs-regret") == replace(whole, migrator="none") != whole


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        (FAULTY, "things go wrong by chance"),
        (instance_of(Sample(site_count=65, task_count=1)), "65 sites are more than 64"),
    ],
    ids=["faults", "many sites"],
)
def test_what_is_not_compiled_is_left_to_the_full_core(instance: Instance, reason: str) -> None:
    few = replace(instance, tasks=instance.tasks[:3])
    result = cores.simulate(few, policy="joint")
    assert result.core == "full"
    assert same(result, simulate_full(few, policy="joint"))
    with pytest.raises(InvalidRequestError, match=reason):
        cores.simulate_fast(few, policy="joint")
    with pytest.raises(InvalidRequestError, match=reason):
        run_fast(FastWorld(few), FastPolicy("joint"))


def test_the_compiled_core_is_the_first_choice() -> None:
    assert cores.simulate(INSTANCE, policy="joint").core == "fast"


def test_without_numba_the_full_core_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "has_fast", lambda: False)
    few = replace(INSTANCE, tasks=INSTANCE.tasks[:3])
    assert cores.simulator("auto")(few, policy="joint", cache_mode="dual", log=None).core == "full"
    with pytest.raises(InvalidRequestError, match="numba is not installed") as caught:
        cores.simulator("fast")
    assert "gcos[research]" in (caught.value.hint or "")


def test_an_unknown_core_policy_or_mode_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        cores.simulator("fats")
    assert "did you mean fast" in (caught.value.hint or "")
    with pytest.raises(InvalidRequestError) as caught:
        cores.simulate(INSTANCE, policy="jiont")
    assert "joint" in (caught.value.hint or "")
    with pytest.raises(InvalidRequestError) as caught:
        cores.simulate_fast(INSTANCE, policy="joint", cache_mode="dula")
    assert "dual" in (caught.value.hint or "")


def test_a_task_that_fits_no_site_is_named() -> None:
    large = replace(INSTANCE.tasks[3], gpu_count=9)
    tasks = (*INSTANCE.tasks[:3], large, *INSTANCE.tasks[4:])
    with pytest.raises(InvalidRequestError, match=rf"{large.task_id} needs 9 GPUs"):
        cores.simulate_fast(replace(INSTANCE, tasks=tasks), policy="joint")


def test_the_kept_code_depends_on_every_module_that_it_takes_constants_from() -> None:
    known = {module.__name__ for module in compiled.SOURCES}
    packages = ("gcos", "policies", "site_agent", "testbed.sim")
    for path in Path(compiled.__file__).parent.glob("*.py"):
        if "@compiled" not in path.read_text():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(packages):
                assert node.module in known, f"{path.name} imports {node.module}"
