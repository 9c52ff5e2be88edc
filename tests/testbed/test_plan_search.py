"""Search of constants: sets are drawn alike, each is run as it says, and the better ones go on."""

from collections.abc import Sequence

import pytest

from testbed import plan_search
from testbed.fast.run import FastWorld, fast_policy, run_fast
from testbed.plan_search import Constants, Search, Spent, drawn_constants, row, score
from testbed.sim.samples import Sample, instance_of
from testbed.training.settings import Setting


def test_sets_are_drawn_alike_and_the_first_is_what_is_shipped() -> None:
    assert fast_policy("maccs").with_constants(drawn_constants(0)) == fast_policy("maccs")
    sets = [drawn_constants(number) for number in range(1, 41)]
    assert sets == [drawn_constants(number) for number in range(1, 41)]
    assert len({each["fill"] for each in sets}) == 40
    assert 0 < sum("migrator" in each for each in sets) < 20
    assert all(isinstance(each["copy_count_max"], int) for each in sets)


def test_constants_reach_plan_and_policy() -> None:
    found = fast_policy("maccs").with_constants(
        {"fill": 0.9, "payback_h": 60.0, "reauction_usd": 1.0, "migrator": "none"}
    )
    assert (found.plan.fill, found.plan.payback_h) == (0.9, 60.0)
    assert (found.reauction_usd, found.migrator) == (1.0, "none")
    assert found.plan.caution == fast_policy("maccs").plan.caution


def test_each_set_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = instance_of(Sample(task_count=20, tasks_per_h=40.0, site_count=2))
    monkeypatch.setattr(Setting, "instance", lambda _self: instance)
    setting = plan_search.Setting(None, None, 0.0, 1)  # type: ignore[arg-type]
    sets: list[Constants] = [{}, {"reauction_usd": 1e3}]

    found = plan_search.spent(setting, sets)

    for each, constants in zip(found, sets, strict=True):
        whole = run_fast(FastWorld(instance), fast_policy("maccs").with_constants(constants)).whole
        lam = instance.carbon_price_usd_per_kg
        assert each.whole_usd == whole.charge.joint_usd(instance.scope, lam)
    assert found[0] != found[1]


def test_ranks_by_the_measured_week_and_the_whole_run() -> None:
    shipped = [Spent(100.0, 200.0)] * 2
    assert score([Spent(90.0, 200.0)] * 2, shipped) == pytest.approx(-0.05)
    assert score([Spent(90.0, 240.0)] * 2, shipped) == pytest.approx(0.05)
    assert row(0, [-0.1, -0.1], [0.0, 0.02]) == "| 0 | -10.0 % (0.0) | +1.0 % (1.0) |  |\n"


def test_the_better_ones_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Set 3 is best where it is cheap to see, set 5 everywhere."""
    met: list[tuple[int, int]] = []
    sets = {number: dict(drawn_constants(number)) for number in range(9)}

    def spent(setting: Setting, chosen: Sequence[Constants]) -> list[Spent]:
        met.append((setting.seed, len(chosen)))
        numbers = [next(k for k, own in sets.items() if own == each) for each in chosen]
        is_first = setting.seed < 2
        usd = [{5: 90.0, 3: 80.0 if is_first else 110.0}.get(k, 100.0 + k) for k in numbers]
        return [Spent(each, each) for each in usd]

    some = tuple(Setting(None, None, 0.0, seed) for seed in range(8))  # type: ignore[arg-type]
    monkeypatch.setattr(plan_search, "ROUNDS", ((8, 2), (4, 4), (2, 8)))
    monkeypatch.setattr(plan_search, "settings", lambda *_, count, **__: some[:count])
    monkeypatch.setattr(plan_search, "spent", spent)

    search = Search(plan_search.Path(), job_count=1)
    assert search.best() == 5
    assert met == [(0, 9), (1, 9), (2, 5), (3, 5), (4, 3), (5, 3), (6, 3), (7, 3)]
    told = capsys.readouterr().out
    assert "8 sets, 2 settings" in told
    assert told.index("| 3 | -20.0 %") < told.index("| 5 | -10.0 %")
    search.confirm(5)
    assert "| drawn, 8 | 5 | " in capsys.readouterr().out
