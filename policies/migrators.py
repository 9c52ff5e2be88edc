"""Which copies to pull ahead of need. Pure; each migrator belongs to one site.

`regret` is ski rental: rent (lose auctions) until the rent paid reaches the price of buying (the
transfer), then buy, which costs at most twice what foresight would (Karlin et al., Algorithmica
1988; DESIGN section 7 C):

    credit[a] <- credit[a] exp(-dt / CREDIT_S) + saving lost for want of a
    pull a when credit[a] / transfer[a] >= REGRET_RATIO

A loss is credited to one site, that which would have won (`site_agent.migration`), so the credit is
what a copy there would have saved. Ratio and time constant were chosen on weeks of 2021 and 2022.

`popularity` is what content networks do: pull what is used much elsewhere.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from policies.evictors import ELSEWHERE_WEIGHT
from policies.interface import CachedItem, Loss, Migrator, Wish

#: Time constant of forgetting, world seconds: what was lost days ago says little of tomorrow.
CREDIT_S: Final = 36 * 3600.0
#: Credit over price of transfer from which a copy is pulled.
REGRET_RATIO: Final = 1.0
#: Expected uses here, a tenth of those elsewhere, from which a popular artifact is pulled.
POPULAR_USES: Final = 2.0


class NoMigrator:
    """Pulls nothing: copies come with the tasks that need them."""

    name = "none"

    def lost(self, losses: Sequence[Loss], *, now_s: float) -> Sequence[Wish]:
        """Learn from a lost auction; return what is worth pulling now, best first."""
        del losses, now_s
        return ()

    def beat(self, demand: Sequence[CachedItem], *, now_s: float) -> Sequence[Wish]:
        """Look around, once an hour of world time, at what is used elsewhere and not here."""
        del demand, now_s
        return ()

    def pulled(self, artifact_id: str) -> None:
        """Take note that a copy is on its way: its wish is granted."""


class Popularity(NoMigrator):
    """Pulls what is used much elsewhere."""

    name = "popularity"

    def beat(self, demand: Sequence[CachedItem], *, now_s: float) -> Sequence[Wish]:
        """Look around, once an hour of world time, at what is used elsewhere and not here."""
        del now_s
        wishes = [
            Wish(
                item.artifact_id,
                worth_usd=ELSEWHERE_WEIGHT * item.elsewhere * item.refetch_usd,
                why=f"used {item.elsewhere:.1f} times elsewhere of late",
            )
            for item in demand
            if ELSEWHERE_WEIGHT * item.elsewhere >= POPULAR_USES
        ]
        return sorted(wishes, key=lambda wish: (-wish.worth_usd, wish.artifact_id))


class Regret(NoMigrator):
    """Pulls what lost auctions would have paid for."""

    name = "regret"

    def __init__(self) -> None:
        self._credits: dict[str, tuple[float, float]] = {}

    def lost(self, losses: Sequence[Loss], *, now_s: float) -> Sequence[Wish]:
        """Learn from a lost auction; return what is worth pulling now, best first."""
        wishes = []
        for loss in losses:
            credit = self._credit(loss.artifact_id, now_s) + loss.saving_usd
            self._credits[loss.artifact_id] = (credit, now_s)
            if credit >= REGRET_RATIO * loss.transfer_usd:
                why = (
                    f"auctions lost for want of it would have saved {credit:.4g} $,"
                    f" bringing it costs {loss.transfer_usd:.4g} $"
                )
                wishes.append(Wish(loss.artifact_id, worth_usd=credit, why=why))
        return sorted(wishes, key=lambda wish: (-wish.worth_usd, wish.artifact_id))

    def pulled(self, artifact_id: str) -> None:
        """Take note that a copy is on its way: its wish is granted."""
        self._credits.pop(artifact_id, None)

    def _credit(self, artifact_id: str, now_s: float) -> float:
        credit, at_s = self._credits.get(artifact_id, (0.0, now_s))
        return credit * math.exp((at_s - now_s) / CREDIT_S)


MIGRATORS: Final[Mapping[str, Callable[[], Migrator]]] = {
    "none": NoMigrator,
    "popularity": Popularity,
    "regret": Regret,
}
