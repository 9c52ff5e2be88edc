"""The model card of an actor, for people: what its file says of itself, as Markdown. Pure."""

from collections.abc import Iterable

from policies.catalogue import CENTRAL
from policies.maccs.actor_card import ActorCard, GateResult

_LIMITS = (
    "Trained in simulation, on a generated workload: no open trace names what such tasks need.",
    "Settings far outside those of its training are unknown to it; its inputs are cut off there.",
)
_LIVE = ("A residual scale of 0 means: it is loaded and run, and changes no decision.",)
_CENTRAL = (
    "An ablation: it looks at the offers of all sites for a task at once, so no agent loads it.",
    "Evaluations of `central` take it at its full weight, whatever the gate says.",
)


def markdown(card: ActorCard) -> str:
    """Return the card of an actor's file."""
    lines = [
        f"# The {card.part} actor",
        "",
        f"One row a candidate, any number of them; the output is {card.output}.",
        f"Weight beside the rule (residual scale): **{card.residual_scale:g}**.",
        "",
        "## Training",
        "",
        *_table(
            {
                "code": card.made_by,
                "data": card.data,
                "weeks": card.weeks,
                "seeds": f"{card.first_seed} to {card.first_seed + card.run_count - 1}",
                **card.trained_with,
                **card.settings,
            }
        ),
        "",
        "## What the fit came to",
        "",
        *_table({name: f"{value:.6g}" for name, value in card.fit.items()}),
        "",
        "## The ship gate",
        "",
        *_gate(card.gate),
        "",
        "## Inputs",
        "",
        f"Shifted, scaled and cut off at {card.clamp:g} inside the file.",
        "",
        "| feature | unit | shift | scale |",
        "|---|---|--:|--:|",
        *(
            f"| `{each.name}` | {each.unit} | {each.shift:.6g} |"
            f" {f'{each.scale:.6g}' if each.scale else 'never varied: not looked at'} |"
            for each in card.features
        ),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in (*_LIMITS, *(_CENTRAL if card.part == CENTRAL else _LIVE))),
    ]
    return "\n".join(lines) + "\n"


def _table(rows: dict[str, str]) -> Iterable[str]:
    yield "| | |"
    yield "|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"


def _gate(gate: GateResult | None) -> Iterable[str]:
    if gate is None:
        yield "Has not been asked, so the residual scale is 0."
        return
    verdict = "passed" if gate.is_passed else "did not pass"
    yield f"It {verdict}: {gate.why}."
    yield f"Validation: {gate.weeks}, seeds from {gate.first_seed}."
    yield "J against the same policy without this actor, paired:"
    yield ""
    for scale, result in gate.tried.items():
        yield f"- at {scale}: {result}"
    for result in gate.families:
        yield f"- family at the scale judged last: {result}"
