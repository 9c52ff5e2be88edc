"""Which artifacts a site gives out of its custody, and to whom. Pure.

What is in custody is never evicted, so a site that has made much could one day cache nothing else.
Beyond `CUSTODY_RATIO` of a cache it hands over what it uses least a byte:

- to a site that holds a copy already, which moves no byte;
- else to one with room, which pulls a copy first: a *move*, since the copy here may go afterwards.

Where several come into question, it is the one that uses the artifact most.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import ArtifactId, SiteId
from gcos.known_sites import KnownSite
from site_agent.dual_cache import DualCache

#: Share of a cache that custody may take up before the site looks for takers.
CUSTODY_RATIO: Final = 0.5


@dataclass(frozen=True, slots=True)
class Giving:
    """An artifact to hand over.

    Attributes:
        artifact: In this site's custody.
        taker: Who should have it.
        has_copy: A copy is there already.
        why: In words.
    """

    artifact: Artifact
    taker: KnownSite
    has_copy: bool
    why: str


def givings(
    cache: DualCache,
    sites: Iterable[KnownSite],
    *,
    here: SiteId,
    offered: frozenset[ArtifactId] = frozenset(),
) -> tuple[Giving, ...]:
    """Return what to hand over now, the least used a byte first.

    Args:
        cache: This site's.
        sites: Who is known.
        here: This site.
        offered: What is offered already: it counts as gone, and is not offered twice.
    """
    others = [known for known in sites if known.site.site_id != here]
    found: list[Giving] = []
    for kind in ArtifactKind:
        capacity_bytes = cache.capacity_bytes(kind)
        artifacts = {each.artifact.artifact_id: each.artifact for each in cache.entries()}
        own = [each for each in artifacts.values() if each.kind is kind and each.custodian == here]
        excess_bytes = sum(
            each.size_bytes for each in own if each.artifact_id not in offered
        ) - round(CUSTODY_RATIO * capacity_bytes)
        rate = cache.demand.rate_per_h
        for each in sorted(own, key=lambda a: (rate(a.artifact_id) / a.size_bytes, a.artifact_id)):
            if excess_bytes <= 0:
                break
            if each.artifact_id in offered:
                continue
            chosen = _taker(each, others)
            if chosen is None:
                continue
            taker, has_copy = chosen
            excess_bytes -= each.size_bytes
            why = (
                f"custody takes up more than {CUSTODY_RATIO:.0%} of the {kind.value.lower()} cache;"
                f" {taker.site.site_id} {'holds a copy' if has_copy else 'has room for a copy'}"
            )
            found.append(Giving(each, taker, has_copy, why))
    return tuple(found)


def _taker(artifact: Artifact, sites: Iterable[KnownSite]) -> tuple[KnownSite, bool] | None:
    """Return who should have an artifact and whether a copy is there; None: nobody can."""
    ranked = [
        ((not holds, -_uses(known, artifact.artifact_id), known.site.site_id), known, holds)
        for known in sites
        if not known.digest.is_draining
        for holds in (any(a.artifact_id == artifact.artifact_id for a in known.digest.holdings),)
        if holds or _room_bytes(known, artifact.kind) >= artifact.size_bytes
    ]
    if not ranked:
        return None
    _, known, holds = min(ranked, key=lambda each: each[0])
    return known, holds


def _uses(known: KnownSite, artifact_id: ArtifactId) -> float:
    demand = known.digest.demand
    return next((each.use_count for each in demand if each.artifact_id == artifact_id), 0.0)


def _room_bytes(known: KnownSite, kind: ArtifactKind) -> int:
    """Return the bytes of a cache that nothing advertised takes up."""
    site = known.site
    is_model = kind is ArtifactKind.MODEL
    capacity_bytes = site.model_cache_bytes if is_model else site.data_cache_bytes
    sizes = {a.artifact_id: a.size_bytes for a in known.digest.holdings if a.kind is kind}
    return capacity_bytes - sum(sizes.values())
