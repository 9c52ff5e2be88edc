"""`gcos evaluate --precision`: as many runs as it takes to know differences well."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gcos.accounting import Charge
from gcos.cli.main import main
from gcos.cli.output import Output
from gcos.errors import InvalidRequestError
from testbed import cores
from testbed.evaluation import Evaluation
from testbed.precision import SEEDS_MAX, Precision, largest_error_percent, precision_of
from testbed.sim.instance import Instance
from testbed.sim.result import Lookups, RunResult, Totals
from testbed.study import Study

WEEKS = ",".join(f"2024-W{week:02}" for week in range(1, 9))
SMALL = ["workload.load=0.02", "measure_h=24", "carbon_price_usd_per_kg=0"]


@dataclass
class Simulator:
    """Lets any policy but `rule` cost 50 % more, 10 points more or less from run to run.

    From n of the eight weeks that difference has a standard error of 10 / sqrt(n) points.
    """

    calls: list[tuple[str, str, int]] = field(default_factory=list)

    def __call__(
        self, instance: Instance, *, policy: str, cache_mode: str, log: Path | None
    ) -> RunResult:
        self.calls.append((policy, cache_mode, instance.seed))
        factor = 1.5 + (0.1 if instance.seed % 2 else -0.1)
        is_baseline = policy == "rule" and cache_mode == "dual"
        count = len(instance.tasks)
        charge = Charge(
            energy_usd=count * (1.0 if is_baseline else factor), compute_gco2=1000.0 * count
        )
        totals = Totals(charge, Charge(), count, 0, 0.0, 0.0, Lookups(), Lookups())
        return RunResult(policy, cache_mode, totals, totals, count, wall_s=0.0, trace_hash="")


def study(simulate: Simulator, *, seeds: int = 2, out: Path | None = None) -> Study:
    return Study(
        simulate=simulate,
        code="some code",
        data=None,
        weeks=WEEKS,
        first=None,
        last=None,
        seed_count=seeds,
        replay=None,
        job_count=1,
        out_directory=out,
        export=None,
        output=Output(is_quiet=True),
    )


def find(
    of: Study,
    precision: Precision | None,
    *,
    variants: Sequence[Sequence[str]] = ((),),
    policies: Sequence[str] = ("rule", "locality"),
    cache_modes: Sequence[str] = ("dual",),
) -> list[Evaluation]:
    several = len(cache_modes) > 1
    return of.find_each(
        "sites-5",
        variants=[[*SMALL, *each] for each in variants],
        policies=policies,
        cache_modes=cache_modes,
        baseline="rule/dual" if several else "rule",
        precision=precision,
    )


def test_runs_are_doubled_until_the_error_is_small_or_there_are_as_many_as_may_be() -> None:
    wanted = Precision(percent=0.5, seeds_max=40)
    assert [wanted.next_count(count, 0.51) for count in (12, 24, 40)] == [24, 40, 40]
    assert [wanted.next_count(count, 0.5) for count in (12, 24, 40)] == [12, 24, 40]
    assert [wanted.next_count(count, None) for count in (1, 40)] == [2, 40]


@pytest.mark.parametrize(
    ("percent", "most", "count", "said"),
    [
        (6.0, 8, 4, "4 runs of each policy were enough"),
        (4.0, 8, 8, "8 runs of each policy were enough"),
        (1.0, 6, 6, "6 runs of each policy, the most that --seeds-max allows, leave"),
    ],
)
def test_runs_go_on_until_the_difference_is_known_as_well_as_wanted(
    percent: float, most: int, count: int, said: str
) -> None:
    simulate = Simulator()
    (found,) = find(study(simulate), Precision(percent, most))
    assert found.seeds == tuple(range(1, count + 1))
    assert len(simulate.calls) == len(set(simulate.calls)) == 2 * count
    assert found.notes[-1].startswith(said)
    assert found.notes[-1].endswith(f"(--precision {percent:g})")


def test_runs_found_that_way_are_those_of_as_many_seeds() -> None:
    modes = ("dual", "none")
    precise, plain = Simulator(), Simulator()
    (found,) = find(study(precise), Precision(4.0, 96), cache_modes=modes)
    (wanted,) = find(study(plain, seeds=8), None, cache_modes=modes)
    assert replace(found, notes=found.notes[:-1]) == wanted
    assert precise.calls == plain.calls
    assert "--seeds 8" in found.origin.command


def test_caches_alone_can_be_what_differs() -> None:
    modes = ("dual", "none")
    (found,) = find(study(Simulator()), Precision(6.0, 8), policies=("rule",), cache_modes=modes)
    assert len(found.seeds) == 4


def test_all_values_of_a_sweep_have_the_runs_that_the_hardest_one_needs() -> None:
    """At 100 $/kg cost hardly counts, and its spread even less."""
    prices = [[f"carbon_price_usd_per_kg={price}"] for price in (100, 0)]
    (easy,) = find(study(Simulator()), Precision(4.0, 96), variants=prices[:1])
    assert len(easy.seeds) == 2
    found = find(study(Simulator()), Precision(4.0, 96), variants=prices)
    assert [len(each.seeds) for each in found] == [8, 8]


def test_kept_runs_are_not_made_again(tmp_path: Path) -> None:
    first, again, more = Simulator(), Simulator(), Simulator()
    find(study(first, out=tmp_path), Precision(6.0, 8))
    find(study(again, out=tmp_path), Precision(6.0, 8))
    find(study(more, out=tmp_path), Precision(4.0, 8))
    assert (len(first.calls), again.calls, len(more.calls)) == (8, [], 8)
    kept = [json.loads(path.read_text()) for path in (tmp_path / "evaluations").iterdir()]
    assert sorted(len(each["seeds"]) for each in kept) == [4, 8], "and none with fewer"


def test_one_run_leaves_the_error_unknown_and_more_are_made() -> None:
    (alone,) = find(study(Simulator(), seeds=1), None)
    assert largest_error_percent([alone]) is None
    (found,) = find(study(Simulator(), seeds=1), Precision(6.0, 8))
    assert len(found.seeds) == 4


def test_without_an_option_there_are_as_many_runs_as_seeds() -> None:
    assert precision_of(None, None, seed_count=24, compared_count=1) is None
    assert precision_of(0.5, None, seed_count=12, compared_count=2) == Precision(0.5, SEEDS_MAX)


@pytest.mark.parametrize(
    ("words", "field", "said"),
    [
        ("--seeds-max 96", "seeds_max", "--seeds-max is of --precision"),
        ("--precision 0", "precision", "0 % cannot be had"),
        ("--precision nan", "precision", "nan % cannot be had"),
        ("--precision 1 --seeds-max 12", "seeds_max", "24 of --seeds"),
        ("--precision 1 --seeds-max 10001", "seeds_max", "to 10000"),
        ("--precision 1 --seeds 0 --seeds-max 12", "seeds", "0 seeds"),
        ("--precision 1 --seeds 1 --seeds-max 1", "seeds_max", "one run of each policy"),
        ("--precision 1 --policies rule", "precision", "one policy has no difference"),
        ("--precision 1 --weeks 2024-W01", "precision", "name more weeks"),
        ("--precision 1 --scenario paper", "precision", "another number of runs"),
        ("--precision 1 --on live", "precision", "for simulated runs"),
    ],
)
def test_what_has_no_precision_is_refused(
    words: str, field: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--policies", "rule,locality", *words.split(), "-o", "json"]
    assert main(command) == 2
    told = json.loads(capsys.readouterr().err)
    assert (told["field"], said in f"{told['message']} {told['hint']}") == (field, True)


def test_the_command_tells_how_many_runs_it_makes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cores, "simulator", lambda _: Simulator())
    words = f"evaluate --policies rule,locality --weeks {WEEKS} --core full --seeds 2 --precision 6"
    assert main([*words.split(), *(f"--set={each}" for each in SMALL)]) == 0
    told = capsys.readouterr()
    assert "4 runs a policy: seeds 1 to 4" in " ".join(told.out.split())
    assert "2 runs of each policy leave" in told.err
    assert "on to 4" in told.err
    assert "4 runs of each policy were enough" in " ".join(told.out.split())


def test_a_precision_that_counts_no_week_is_refused_before_any_run() -> None:
    simulate = Simulator()
    with pytest.raises(InvalidRequestError, match="one week gives no standard error"):
        find(replace(study(simulate), weeks="2024-W01"), Precision(6.0, 8))
    assert simulate.calls == []
