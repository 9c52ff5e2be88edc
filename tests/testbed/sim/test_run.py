"""An instance run by names, with its three files."""

from dataclasses import replace
from pathlib import Path

import pytest

from gcos.errors import InvalidRequestError
from testbed.sim.run import simulate
from testbed.sim.samples import Sample, instance_of
from tests.recheck.recheck import read_export, recheck

INSTANCE = instance_of(Sample(task_count=10))


@pytest.mark.parametrize("mode", ["dual", "coupled"])
def test_the_three_files_tell_what_the_result_says(tmp_path: Path, mode: str) -> None:
    result = simulate(INSTANCE, policy="joint", cache_mode=mode, log=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"scenario.json", "log.jsonl", "reported.json"}
    verdict = recheck(read_export(tmp_path))
    assert not verdict.breaches
    assert verdict.totals.energy_usd == pytest.approx(result.whole.charge.energy_usd, rel=1e-6)
    measured = result.measured.charge
    assert verdict.measured.transfer_usd == pytest.approx(measured.transfer_usd, rel=1e-6)
    assert (result.policy, result.cache_mode) == ("joint", mode)
    assert result.event_count > len(INSTANCE.tasks)


def test_writing_the_files_changes_nothing(tmp_path: Path) -> None:
    with_files = simulate(INSTANCE, policy="joint", log=tmp_path)
    without = simulate(INSTANCE, policy="joint")
    assert replace(with_files, wall_s=0.0) == replace(without, wall_s=0.0)


@pytest.mark.parametrize(
    ("options", "field", "near"),
    [
        ({"policy": "jiont"}, "policy", "joint"),
        ({"policy": "joint", "cache_mode": "dula"}, "cache_mode", "dual"),
        ({"policy": "joint", "cache_mode": "xyzzy"}, "cache_mode", "no-model"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(
    options: dict[str, str], field: str, near: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        simulate(INSTANCE, **options)
    assert caught.value.field == field
    assert near in (caught.value.hint or "")


def test_a_task_that_fits_no_site_is_named() -> None:
    large = replace(INSTANCE.tasks[3], gpu_count=9)
    tasks = (*INSTANCE.tasks[:3], large, *INSTANCE.tasks[4:])
    with pytest.raises(InvalidRequestError, match=rf"{large.task_id} needs 9 GPUs.*more than 8"):
        simulate(replace(INSTANCE, tasks=tasks), policy="joint")
