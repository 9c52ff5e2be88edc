"""What the demo submits: which artifacts lie where, and which jobs come when. Pure.

The demo is a scaled model of a cluster. One second on the wall is ten minutes of world time, a
stored byte stands for a hundred, a token for a thousand: so a model of 21 MB stands for one of
2.1 GB, and a job of three seconds for one of half an hour. With these three, a run's electricity,
the egress of its artifacts and the hours of a day's carbon curve weigh about alike, as they do for
jobs of hours and models of tens of GB. (At byte ratio 1000 egress alone would decide everything.)
"""

from dataclasses import dataclass
from typing import Final

from gcos.tasks import WorkKind

SITE_IDS: Final = ("on", "de", "cal", "in")
SPEED: Final = 600.0
BYTE_RATIO: Final = 100.0
TOKEN_RATIO: Final = 1000
GPU_COUNT: Final = 1
#: Afternoon in Germany, whose evening peak lies ahead; morning in California, before the sun.
WORLD_START: Final = "2026-06-01T12:00:00+00:00"

BATCH_COUNT: Final = 4
SEQUENCE_TOKENS: Final = 256

#: Where each artifact lies at first: at one site only.
MODEL_HOMES: Final = {
    "tiny-lm-800k": "in",
    "tiny-lm-1500k": "de",
    "tiny-lm-3400k": "cal",
    "tiny-lm-5200k": "de",
}
DATA_HOMES: Final = {
    "court-minutes": "on",
    "recipes": "de",
    "harbour-log": "de",
    "field-notes": "on",
    "support-tickets": "in",
    "ledger-lines": "cal",
    "travel-letters": "de",
    "machine-code": "cal",
}

#: Tokens per second on one core, batches of four (measured; they size the jobs, nothing else).
_TOKENS_PER_S: Final = {
    (WorkKind.BATCH_INFERENCE, "tiny-lm-800k"): 13_700,
    (WorkKind.BATCH_INFERENCE, "tiny-lm-1500k"): 8_000,
    (WorkKind.BATCH_INFERENCE, "tiny-lm-3400k"): 2_700,
    (WorkKind.BATCH_INFERENCE, "tiny-lm-5200k"): 1_800,
    (WorkKind.EVALUATION, "tiny-lm-800k"): 77_000,
    (WorkKind.EVALUATION, "tiny-lm-1500k"): 41_000,
    (WorkKind.EVALUATION, "tiny-lm-3400k"): 19_000,
    (WorkKind.EVALUATION, "tiny-lm-5200k"): 13_000,
}
_MODULES: Final = {
    WorkKind.BATCH_INFERENCE: "testbed.workloads.generate",
    WorkKind.EVALUATION: "testbed.workloads.evaluate",
}


@dataclass(frozen=True, slots=True)
class DemoJob:
    """One job of the demo.

    Attributes:
        name: Two digits.
        submit_s: Wall seconds after the beginning at which it is submitted.
        origin: Site at which it is submitted.
        kind: Batch inference or evaluation.
        model: Its model.
        data: Its data set.
        core_s: Seconds that it computes where a core is its own.
        deadline_h: World hours from the submission; None: none.
    """

    name: str
    submit_s: float
    origin: str
    kind: WorkKind
    model: str
    data: str
    core_s: float
    deadline_h: float | None

    @property
    def token_count(self) -> int:
        """Tokens that the command really processes."""
        return round(_TOKENS_PER_S[self.kind, self.model] * self.core_s)

    def document(self) -> dict[str, object]:
        """Return the task document, whose tokens are the world's."""
        document: dict[str, object] = {
            "apiVersion": "gcos/v1",
            "kind": "Task",
            "name": self.name,
            "project": "demo",
            "model": self.model,
            "data": [self.data],
            "work": {
                "kind": self.kind.value.lower().replace("_", "-"),
                "tokens": self.token_count * TOKEN_RATIO,
                "batch": BATCH_COUNT,
                "sequence": SEQUENCE_TOKENS,
            },
            "run": [
                *("python", "-m", _MODULES[self.kind]),
                *("--tokens", str(self.token_count)),
                *("--batch", str(BATCH_COUNT)),
                *("--sequence", str(SEQUENCE_TOKENS)),
            ],
        }
        if self.deadline_h is not None:
            document["deadline"] = f"{self.deadline_h:g}h"
        return document


def demo_jobs() -> tuple[DemoJob, ...]:
    """Return the jobs in the order of their submission."""
    inference, evaluation = WorkKind.BATCH_INFERENCE, WorkKind.EVALUATION
    rows = (
        # submit, origin, kind, model, data, core seconds, deadline in hours
        (0.0, "de", inference, "tiny-lm-1500k", "recipes", 2.0, None),
        (0.5, "in", inference, "tiny-lm-800k", "support-tickets", 2.0, 8.0),
        (1.0, "on", evaluation, "tiny-lm-1500k", "court-minutes", 2.0, None),
        (3.0, "cal", inference, "tiny-lm-3400k", "ledger-lines", 2.5, 8.0),
        (4.5, "de", evaluation, "tiny-lm-5200k", "harbour-log", 2.5, None),
        (6.0, "in", inference, "tiny-lm-800k", "field-notes", 2.0, 6.0),
        (8.0, "cal", evaluation, "tiny-lm-3400k", "machine-code", 2.5, 9.0),
        (10.0, "de", inference, "tiny-lm-5200k", "travel-letters", 3.0, 8.0),
        (11.5, "in", evaluation, "tiny-lm-800k", "support-tickets", 2.0, 4.0),
        (13.0, "on", inference, "tiny-lm-1500k", "field-notes", 2.0, None),
        (15.0, "de", inference, "tiny-lm-1500k", "harbour-log", 2.5, 6.0),
        (16.5, "cal", inference, "tiny-lm-3400k", "ledger-lines", 2.5, None),
        (18.0, "in", inference, "tiny-lm-800k", "court-minutes", 2.5, None),
        (20.0, "de", evaluation, "tiny-lm-5200k", "recipes", 2.5, 8.0),
        (22.0, "on", inference, "tiny-lm-3400k", "field-notes", 2.5, None),
        (23.5, "in", evaluation, "tiny-lm-1500k", "support-tickets", 2.0, 6.0),
        (25.0, "de", inference, "tiny-lm-1500k", "recipes", 2.5, None),
        (27.0, "cal", evaluation, "tiny-lm-3400k", "machine-code", 2.0, 4.0),
        (29.0, "in", inference, "tiny-lm-800k", "support-tickets", 2.5, None),
        (31.0, "de", inference, "tiny-lm-1500k", "harbour-log", 2.0, 4.0),
        (33.0, "on", evaluation, "tiny-lm-5200k", "court-minutes", 2.5, None),
        (35.0, "cal", inference, "tiny-lm-800k", "ledger-lines", 2.0, None),
        (37.0, "de", evaluation, "tiny-lm-1500k", "travel-letters", 2.0, 6.0),
        (39.0, "in", inference, "tiny-lm-800k", "field-notes", 2.0, None),
    )
    return tuple(DemoJob(f"{number:02d}", *row) for number, row in enumerate(rows, start=1))
