"""Are decisions what they were? Makes recorded plans of agents again, in each form of the actor.

    python -m testbed.decision_parity DATA_DIR [DATA_DIR ...] [--actors DIR]

reads what agents kept (`plan_record_count`) and plans on it once more: with the actor's file, with
its weights as the arrays of the compiled simulator, and with torch where that is installed. Each
must choose the same copies for the same sites in the same order (DESIGN section 8, parity a).
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gcos.errors import GcosError, InvalidRequestError
from gcos.sites import Link
from gcos.tables import link
from policies.maccs.actor import Actor, actor_path, load_actor
from policies.maccs.actor_file import read_model
from policies.maccs.artifact_features import FEATURES
from policies.maccs.artifact_features import PART as ARTIFACT
from policies.maccs.copy_plan import UNLEARNED, Learned
from policies.maccs.network import forward, weights_in
from site_agent.plan_files import PlanRecords
from site_agent.plan_record import PlanRecord, is_same, made_again
from site_agent.sourcing import Links
from site_agent.wiring import PLANS_NAME


@dataclass(frozen=True, slots=True)
class Parity:
    """How many recorded decisions were the same.

    Attributes:
        plan_count: Plans that were made again.
        copy_count: Copies that they had chosen.
        same_by: Plans that chose the same, by form of the actor.
        skipped_count: Plans that another actor made.
    """

    plan_count: int
    copy_count: int
    same_by: Mapping[str, int]
    skipped_count: int

    @property
    def is_whole(self) -> bool:
        """Whether every form chose the same every time."""
        return all(count == self.plan_count for count in self.same_by.values())


def forms(directory: Path | None) -> tuple[str, dict[str, Any]]:
    """Return the version of an actor, and its forms: rows of features to outputs.

    Raises:
        InvalidRequestError: Its file cannot be used.
    """
    path = actor_path(ARTIFACT, directory)
    actor = load_actor(path, ARTIFACT, FEATURES)
    if not isinstance(actor, Actor):
        raise InvalidRequestError(actor.message, field="actors")
    model, _ = read_model(path)
    weights = weights_in(model.graph)
    found: dict[str, Any] = {"onnx": actor, "arrays": partial(forward, weights)}
    if importlib.util.find_spec("torch") is not None:
        from testbed.training.artifact import told_by  # noqa: PLC0415  needs torch

        found["torch"] = partial(told_by, weights)
    return actor.version, found


def parity(records: Iterable[PlanRecord], links: Links, directory: Path | None = None) -> Parity:
    """Make plans again, and count which ones are as they were.

    Args:
        records: What agents kept.
        links: Link between two zones, as they knew them.
        directory: Where the actor lies that they asked; None: the shipped one.
    """
    version, found = forms(directory)
    same = dict.fromkeys(found, 0)
    plan_count = copy_count = skipped_count = 0
    for record in records:
        if record.actor not in {"", version}:
            skipped_count += 1
            continue
        plan_count += 1
        copy_count += len(record.copies)
        for name, run in found.items():
            learned = Learned(run, record.residual_scale, is_asked=True)
            again = made_again(record, links, learned if record.actor else UNLEARNED)
            same[name] += is_same(record, again)
    return Parity(plan_count, copy_count, same, skipped_count)


def main(words: Sequence[str] | None = None) -> int:
    """Print how many decisions were the same; return 0 where all were, and there were some."""
    parser = argparse.ArgumentParser(description="Makes recorded plans of agents again.")
    parser.add_argument("data_dirs", nargs="+", type=Path, help="data_dir of agents")
    parser.add_argument("--actors", type=Path, default=None, help="their actor_dir")
    told = parser.parse_args(words)
    records = (
        record
        for data_dir in told.data_dirs
        for record in PlanRecords(data_dir / PLANS_NAME, count_max=1).read()
    )
    try:
        found = parity(records, _link, told.actors)
    except GcosError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    shown = ", ".join(f"{name} {count}" for name, count in found.same_by.items())
    sys.stdout.write(
        f"{found.plan_count} plans, {found.copy_count} copies; the same again: {shown};"
        f" {found.skipped_count} of another actor\n"
    )
    return 0 if found.plan_count and found.is_whole else 1


def _link(source_zone: str, target_zone: str) -> Link:
    facts = link(source_zone, target_zone)
    return Link(0.0, bytes_per_s=1.0, egress_usd_per_gb=facts.egress_usd_per_gb)


if __name__ == "__main__":
    sys.exit(main())
