"""The links of a testbed, from the shipped measurements between regions or a table like them. Pure.

The table is `network` of testbed/world/README.md. Round-trip times are emulated as they are. Rates
are scaled: where a second on the wall is `speed` world seconds and a stored byte `byte_ratio` world
bytes, a transfer lasts as long as in the world at rate x speed / byte_ratio.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Final

from gcos.errors import InvalidRequestError
from gcos.tables import SAME_ZONE_GBPS, default_sites
from testbed.scenarios import Scenario
from testbed.wan.records import BROKER, PREDICTOR, WanLink
from testbed.world import World

#: What one Python process carries, all links together, with a reserve (about 1 Gbit/s, measured).
RELAY_BYTES_PER_S_MAX: Final = 100e6
#: A probe must send something: a slower link is refused.
BYTES_PER_S_MIN: Final = 1e4
#: Where broker and predictor are, unless told: the first two that are no site's.
_SERVICE_ZONES: Final = ("GB", "CA-ON", "BR-CS", "IN-WE")
_BYTES_PER_GBIT: Final = 1e9 / 8


def places(
    scenario: Scenario, *, broker_zone: str | None = None, predictor_zone: str | None = None
) -> dict[str, str]:
    """Return the zone of each place: the sites of a scenario, broker and predictor.

    Raises:
        InvalidRequestError: A site is not in the shipped table of sites, or is elsewhere there.
    """
    known = default_sites()
    found = {}
    for site in scenario.site:
        if site.id not in known or known[site.id].zone != site.zone:
            raise InvalidRequestError(
                f"site {site.id!r} in zone {site.zone} is not in the shipped table of sites, "
                "which agents of a testbed come from",
                field="scenario",
                hint=f"leave it out with keep_sites; known sites: {', '.join(known)}",
            )
        found[site.id] = site.zone
    return with_services(found, broker_zone=broker_zone, predictor_zone=predictor_zone)


def with_services(
    sites: Mapping[str, str], *, broker_zone: str | None = None, predictor_zone: str | None = None
) -> dict[str, str]:
    """Return the zones of sites with those of a broker and a predictor, elsewhere if it can be."""
    free = [zone for zone in _SERVICE_ZONES if zone not in sites.values()] or list(_SERVICE_ZONES)
    return {
        **sites,
        BROKER: broker_zone or free[0],
        PREDICTOR: predictor_zone or free[-1 if len(free) == 1 else 1],
    }


def links(
    zones: Mapping[str, str],
    world: World,
    *,
    speed: float,
    byte_ratio: float,
    bytes_per_s_max: float = RELAY_BYTES_PER_S_MAX,
) -> tuple[WanLink, ...]:
    """Return every direction that a message of the cluster can take.

    Args:
        zones: Zone of each place, as `places` returns it.
        world: Whose table of links counts.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        bytes_per_s_max: What the emulator can carry.

    Raises:
        NotFoundError: Nothing is known of a pair of zones.
        BadTableError: A cell of the table is wrong; the message names file, column and row.
        InvalidRequestError: A link would be too slow to be measured.
    """
    found = []
    for src, dst in permutations(zones, 2):
        if {src, dst} == {BROKER, PREDICTOR}:
            continue  # they never talk to each other
        stated = world.link(zones[src], zones[dst])
        gbps = (
            _continental_gbps(world, zones[src], zones[dst])
            if stated.gbps is None
            else (stated.gbps)
        )
        asked = gbps * _BYTES_PER_GBIT * speed / byte_ratio
        if asked < BYTES_PER_S_MIN:
            raise InvalidRequestError(
                f"{gbps:g} Gbit/s from {src} to {dst} would be {asked:.3g} bytes/s here, "
                f"less than {BYTES_PER_S_MIN:g}",
                field="byte_ratio",
                hint="use a smaller byte ratio or a higher speed",
            )
        found.append(
            WanLink(
                src=src,
                dst=dst,
                src_zone=zones[src],
                dst_zone=zones[dst],
                rtt_s=stated.rtt_s,
                asked_bytes_per_s=asked,
                bytes_per_s=min(asked, bytes_per_s_max),
                jitter_s=stated.jitter_s,
                loss_ratio=stated.loss_ratio,
                is_measured=stated.is_rtt_measured and stated.gbps is not None,
            )
        )
    return tuple(found)


def between(all_links: Sequence[WanLink], src: str, dst: str) -> tuple[WanLink, WanLink]:
    """Return the directions there and back."""
    by_pair = {(link.src, link.dst): link for link in all_links}
    return by_pair[src, dst], by_pair[dst, src]


def _continental_gbps(world: World, src_zone: str, dst_zone: str) -> float:
    """Return what the shipped tables assume where nobody measured: 4 within a continent, else 2."""
    same = world.continent(src_zone) == world.continent(dst_zone)
    return SAME_ZONE_GBPS if same else SAME_ZONE_GBPS / 2
