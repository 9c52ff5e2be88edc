"""What an actor's file says of itself: enough to refuse it, and to tell how it was made. Pure.

The card travels inside the ONNX file, as JSON under the metadata key `CARD_KEY`. A reader takes a
file only if part, format and features are those that it was written for: an actor whose inputs mean
something else would answer, and nobody would see that it answers nonsense.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from policies.maccs.fallback import Fallback, FallbackReason

#: Metadata key of the card in an ONNX file.
CARD_KEY: Final = "gcos.actor"
#: Version of what a file of ours holds; a change in what inputs or outputs mean raises it.
FORMAT_VERSION: Final = 1
#: Weights that the ship gate may give to what was learned (DESIGN section 7).
RESIDUAL_SCALES: Final = (0.0, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Feature:
    """One input.

    Attributes:
        name: As in the module that computes it.
        unit: Of the number that is handed in, such as `log1p($/$)`.
        shift: Subtracted first ...
        scale: ... then multiplied with; 0: it never varied in training and is not looked at.
    """

    name: str
    unit: str
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """What a scenario came to at the chosen scale, against the policy without learning.

    Attributes:
        scenario: Its name.
        run_count: Paired runs.
        mean_ratio: Mean of J over J without learning, less 1.
        low_ratio: Lower end of its 95 % interval; None with a single week, which tells none.
        high_ratio: Upper end.
    """

    scenario: str
    run_count: int
    mean_ratio: float
    low_ratio: float | None
    high_ratio: float | None

    def __str__(self) -> str:
        """Tell it in words."""
        told = f"{self.scenario}: {self.mean_ratio:+.2%}"
        if self.low_ratio is not None and self.high_ratio is not None:
            told += f" ({self.low_ratio:+.2%} to {self.high_ratio:+.2%})"
        return f"{told}, {self.run_count} weeks"


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the ship gate said.

    Attributes:
        is_passed: What was learned is used.
        residual_scale: At this weight; 0 where it did not pass.
        why: One sentence.
        weeks: Span of the validation weeks.
        first_seed: Seeds count from here.
        tried: Result of each scale that was tried on the main scenario, by scale.
        families: Result of each scenario family at the scale that was judged last.
    """

    is_passed: bool
    residual_scale: float
    why: str
    weeks: str
    first_seed: int
    tried: Mapping[str, FamilyResult]
    families: tuple[FamilyResult, ...]


@dataclass(frozen=True, slots=True)
class ActorCard:
    """What a file says of itself.

    Attributes:
        part: Which actor: `artifact`, `task`, or `central`, an ablation of that.
        features: Inputs of a row, in their order.
        clamp: Scaled inputs are cut off beyond this.
        output: What a row's output means, with its unit.
        output_max: Outputs are cut off beyond this; None: they are not.
        made_by: Version and commit of GCOS that trained it.
        trained_with: Versions of what it was trained with, by name.
        data: World that it was trained on.
        weeks: Training weeks.
        first_seed: First workload seed of training.
        run_count: Training runs: the seeds count up from the first.
        settings: What training was told, by name.
        fit: What training came to, by name, such as its error on runs that it did not see.
        residual_scale: Weight of what was learned beside the rule.
        gate: What the ship gate said; None: it has not been asked, and the scale is 0.
        format_version: Of what the file holds.
    """

    part: str
    features: tuple[Feature, ...]
    clamp: float
    output: str
    output_max: float | None
    made_by: str
    trained_with: Mapping[str, str]
    data: str
    weeks: str
    first_seed: int
    run_count: int
    settings: Mapping[str, str]
    fit: Mapping[str, float]
    residual_scale: float = 0.0
    gate: GateResult | None = None
    format_version: int = FORMAT_VERSION


def encoded(card: ActorCard) -> str:
    """Return the card as the JSON that a file holds."""
    return msgspec.json.encode(card).decode()


def decoded(text: str | None) -> ActorCard | Fallback:
    """Return the card of a file, or why it is none that this version reads."""
    if text is None:
        return Fallback(FallbackReason.CORRUPT, f"it has no metadata {CARD_KEY!r}")
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version != FORMAT_VERSION:
            return Fallback(
                FallbackReason.VERSION, f"it has format {version}, and {FORMAT_VERSION} is read"
            )
        card = msgspec.json.decode(text, type=ActorCard)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return Fallback(FallbackReason.CORRUPT, f"its card cannot be read: {exc}")
    if card.residual_scale not in RESIDUAL_SCALES:
        return Fallback(
            FallbackReason.CORRUPT, f"its residual scale is {card.residual_scale:g}: 0, 0.5 or 1"
        )
    return card


def mismatch(card: ActorCard, part: str, features: Mapping[str, str]) -> Fallback | None:
    """Return why a card is not that of an actor for `features`; None: it is.

    Args:
        card: The card.
        part: The part it is wanted for.
        features: Inputs as they are computed here, in their order: unit by name.
    """
    if card.part != part:
        return Fallback(FallbackReason.VERSION, f"it is the {card.part} actor, not the {part} one")
    told = [(each.name, each.unit) for each in card.features]
    wanted = list(features.items())
    if told != wanted:
        odd = [a for a, b in zip(told, wanted, strict=False) if a != b]
        first = odd[0][0] if odd else f"{len(told)} in place of {len(wanted)}"
        return Fallback(FallbackReason.VERSION, f"it takes other features: {first}")
    return None


@dataclass(frozen=True, slots=True)
class _Version:
    format_version: int
