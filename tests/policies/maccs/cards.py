"""What the files of the tests' actors say of themselves."""

from collections.abc import Mapping

from policies.maccs.actor_card import ActorCard, Feature


def card_of(
    part: str, units: Mapping[str, str], *, output_max: float, residual_scale: float = 0.0
) -> ActorCard:
    """Return a card; `units` are those of its features by name."""
    return ActorCard(
        part=part,
        features=tuple(Feature(name, unit) for name, unit in units.items()),
        clamp=6.0,
        output="what it is asked for",
        output_max=output_max,
        made_by="a test",
        trained_with={},
        data="none",
        weeks="none",
        first_seed=1_000_001,
        run_count=1,
        settings={},
        fit={},
        residual_scale=residual_scale,
    )
