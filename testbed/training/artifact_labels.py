"""What the artifact actor learns from: features of candidates, and what they would have saved.

DESIGN section 7 F, step 5. At a beat of a run under `plan` every candidate is appraised twice with
the same holdings and prices: once from remembered demand, as agents do, and once from the tasks
that really come in the next `HORIZON_H` hours. The label is the second saving over the price of the
copy. A label of what a whole week comes to would be nearer to the aim, but 40 times noisier.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from gcos.signals import HOUR_S
from policies.catalogue import Foresight
from policies.maccs.artifact_features import FEATURE_COUNT, LEAST_USD, RATIO_MAX
from policies.maccs.copy_plan import HORIZON_H, Appraisal, Floats
from site_agent.copy_planning import SAMPLE_COUNT_MIN
from testbed.fast.layout import State
from testbed.fast.outlooks import Outlooks, Problem
from testbed.fast.run import FastWorld, fast_policy, run_fast
from testbed.planner import plan_module
from testbed.processes import call_all
from testbed.training.settings import Setting

#: Policy of the runs whose beats are learned from.
_POLICY: Final = "plan"


@dataclass(frozen=True, slots=True)
class Labels:
    """Candidates of many beats.

    Attributes:
        rows: (n, 16) features.
        ratio: (n,) what a copy would have saved over its price, 0 to `RATIO_MAX`.
        plain: (n,) the same as the plan expected it, not cut off.
        price_usd: (n,) price of the copy.
    """

    rows: Floats
    ratio: Floats
    plain: Floats
    price_usd: Floats

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.ratio)

    @classmethod
    def joined(cls, parts: Sequence["Labels"]) -> "Labels":
        """Return all candidates, in order."""
        return cls(
            rows=np.concatenate([np.zeros((0, FEATURE_COUNT)), *(each.rows for each in parts)]),
            ratio=np.concatenate([np.zeros(0), *(each.ratio for each in parts)]),
            plain=np.concatenate([np.zeros(0), *(each.plain for each in parts)]),
            price_usd=np.concatenate([np.zeros(0), *(each.price_usd for each in parts)]),
        )


def labels_at(outlooks: Outlooks, state: State) -> Labels:
    """Return the candidates of the beat that it is now; none where nothing is planned yet."""
    remembered = outlooks.problem(state, Foresight.REMEMBERED)
    if len(remembered.sample.start_h) < SAMPLE_COUNT_MIN:
        return Labels.joined(())
    fill = outlooks.settings.fill
    expected, amounts = _appraised(remembered, fill)
    true, _ = _appraised(outlooks.problem(state, Foresight.TRUE), fill)
    price_usd = remembered.caches.price_usd
    asked = (expected.task_count > 0.0) & (price_usd >= LEAST_USD)
    per_usd = 1.0 / price_usd[asked]
    came = np.where(true.task_count > 0.0, true.saved_usd, 0.0)
    return Labels(
        rows=plan_module().features_of(amounts[asked]),
        ratio=np.clip(came[asked] * per_usd, 0.0, RATIO_MAX),
        plain=expected.saved_usd[asked] * per_usd,
        price_usd=price_usd[asked],
    )


def _appraised(problem: Problem, fill: float) -> tuple[Appraisal, Floats]:
    """Return what copies would save, and what their features are made of, (a, i, 16)."""
    plan = plan_module()
    sample, caches, load, gpu_count, around = problem
    load = load.copy()
    count, site_count = caches.price_usd.shape
    limit_gpus = gpu_count * fill
    site_of, cost_usd = plan.assign(sample, caches, load, limit_gpus)
    order, first = plan.index_tasks(sample.artifacts, count)
    uses, latest_h = plan.demand_of(sample.artifacts, around.age_h, count)
    found: Appraisal = plan.empty_appraisal(count, site_count)
    is_stale = np.ones((count, site_count), dtype=np.bool_)
    plan.appraise(sample, caches, load, limit_gpus, cost_usd, order, first, is_stale, found)
    amounts = plan.amounts_at(
        sample, caches, load, gpu_count, site_of, around, uses, latest_h, found
    )
    return found, amounts


@dataclass(frozen=True, slots=True)
class LabelOrder:
    """Labels of one run.

    Attributes:
        setting: The run.
        every_h: Hours between two beats that are looked at.
        kept: File that keeps them.
    """

    setting: Setting
    every_h: int
    kept: Path


def collected(order: LabelOrder) -> Path:
    """Write the labels of a run into its file, if they are not there yet; return the file."""
    if order.kept.exists():
        return order.kept
    instance = order.setting.instance()
    # What is expected two days ahead of the last arrival cannot come: it is not learned from.
    last_s = instance.tasks[-1].arrival_s - HORIZON_H * HOUR_S
    parts: list[Labels] = []

    def watch(outlooks: Outlooks, state: State) -> None:
        now_s = float(state.g[0]["now_s"])
        if now_s <= last_s and round(now_s / HOUR_S) % order.every_h == 0:
            parts.append(labels_at(outlooks, state))

    run_fast(FastWorld(instance), fast_policy(_POLICY), watch=watch)
    found = Labels.joined(parts)
    partial = order.kept.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            rows=found.rows,
            ratio=found.ratio,
            plain=found.plain,
            price_usd=found.price_usd,
        )
    partial.replace(order.kept)
    return order.kept


def read_labels(path: Path) -> Labels:
    """Return the labels in a file."""
    with np.load(path) as found:
        return Labels(*(found[name] for name in ("rows", "ratio", "plain", "price_usd")))


def all_collected(
    settings: Sequence[Setting],
    directory: Path,
    *,
    every_h: int,
    job_count: int,
    tell: Callable[[str], None],
) -> list[Labels]:
    """Return the labels of each run, in their order; runs that are kept are not made again.

    Args:
        settings: The runs.
        directory: Where their labels are kept.
        every_h: Hours between two beats that are looked at.
        job_count: Processes.
        tell: Shows a line of progress.
    """
    directory.mkdir(exist_ok=True)
    orders = [
        LabelOrder(setting, every_h, directory / f"{setting.seed}.npz") for setting in settings
    ]
    count = 0

    def told(_path: Path) -> None:
        nonlocal count
        count += 1
        tell(f"labels: {count} of {len(orders)} runs")

    calls = [functools.partial(collected, order) for order in orders]
    paths = call_all(calls, job_count=job_count, tell=told)
    return [read_labels(path) for path in paths]
