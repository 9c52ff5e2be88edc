"""What is said about links: as asked for, as changed, as measured. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from gcos.errors import NotFoundError
from testbed.lateness import LATENESS_BOUNDS_S

BROKER: Final = "broker"
PREDICTOR: Final = "predictor"

#: A run counts only if at most this share of all deliveries came later than the bound.
LATE_BOUND_S: Final = 0.01
LATE_SHARE_MAX: Final = 0.01


class Carrier(Enum):
    """What carries links, best first."""

    #: The kernel keeps time.
    NETEM = "netem"
    #: We keep time for the kernel, which leaves TCP whole.
    NFQUEUE = "nfqueue"
    #: A process passes bytes on; TCP ends there. Needs no rights.
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class WanLink:
    """One direction between two places.

    Attributes:
        src: Place that sends: a site, `broker` or `predictor`.
        dst: Place that receives.
        src_zone: Where the sender is.
        dst_zone: Where the receiver is.
        rtt_s: Round-trip time of this row of the matrix; half of it is the delay of this direction.
        asked_bytes_per_s: Rate on the wall that makes transfers last as long as in the world.
        bytes_per_s: Rate that is emulated, which the emulator limits.
        jitter_s: Half the width of the uniform spread of the delay.
        loss_ratio: Share of packets that are lost.
        is_measured: Round-trip time and rate were measured between real regions.
    """

    src: str
    dst: str
    src_zone: str
    dst_zone: str
    rtt_s: float
    asked_bytes_per_s: float
    bytes_per_s: float
    jitter_s: float = 0.0
    loss_ratio: float = 0.0
    is_measured: bool = False

    @property
    def delay_s(self) -> float:
        """One-way delay."""
        return self.rtt_s / 2


@dataclass(frozen=True, slots=True)
class RelayPlan:
    """The way from one place to another: what is dialled, and what is reached.

    Attributes:
        src: Place that dials.
        dst: Place that answers.
        address: Where the relay listens, `host:port`.
        target: Where the place that answers serves, `host:port`.
    """

    src: str
    dst: str
    address: str
    target: str


@dataclass(frozen=True, slots=True)
class WanPlace:
    """A place in a network namespace of its own, whose links the kernel carries.

    Attributes:
        name: A site, `broker` or `predictor`.
        address: Its own on the private network.
        serving: Where its process serves on its loopback, `host:port`.
        namespace: Its namespace as `ip netns` knows it; empty: that of a container.
    """

    name: str
    address: str
    serving: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What was done to one direction since the start.

    Attributes:
        src: Place that sends.
        dst: Place that receives.
        is_cut: Nothing arrives.
        factor: Delay is multiplied by it, and the rate divided.
    """

    src: str
    dst: str
    is_cut: bool = False
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class WanConfig:
    """What the emulator is told, and keeps in its file.

    Attributes:
        address: Where it takes orders, `host:port`.
        token_file: Secret of the cluster: an order must show it.
        links: All directions.
        relays: All ways. In the kernel `target` is the gate of the place on the private network.
        changes: What was done to links.
        seed: Of jitter and loss.
        carrier: What carries links; None: the best that there is, found out at the start.
        places: All places in an order that stays, where the kernel carries links.
        here: The place in whose namespace the emulator itself is; empty: it is in none.
    """

    address: str
    token_file: str
    links: tuple[WanLink, ...]
    relays: tuple[RelayPlan, ...]
    changes: tuple[LinkChange, ...] = ()
    seed: int = 0
    carrier: Carrier | None = Carrier.RELAY
    places: tuple[WanPlace, ...] = ()
    here: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What the emulator is asked, one line of JSON.

    Attributes:
        token: Secret of the cluster.
        changes: Directions to change; others stay.
        probe: Way to measure, as src and dst; a relay over its lanes is there until the connection
            of the order ends.
        target: Server of `testbed.relay.echoing` for the probe.
    """

    token: str
    changes: tuple[LinkChange, ...] = ()
    probe: tuple[str, str] | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class LaneReading:
    """How well the emulator kept time on one direction.

    Attributes:
        src: Place that sends.
        dst: Place that receives.
        counts: Deliveries, by `testbed.lateness.LATENESS_BOUNDS_S` and beyond.
        worst_s: The latest.
    """

    src: str
    dst: str
    counts: tuple[int, ...]
    worst_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the emulator says, one line of JSON.

    Attributes:
        problem: Why it refused; empty: it did not.
        changes: What has been done to links.
        lanes: Lateness of each direction.
        address: Where the probe listens.
        is_timed_by_kernel: The kernel keeps time, and does not tell how well.
    """

    problem: str = ""
    changes: tuple[LinkChange, ...] = ()
    lanes: tuple[LaneReading, ...] = ()
    address: str = ""
    is_timed_by_kernel: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the emulator kept time well enough for a run to count.

    Attributes:
        deliveries: How many there were.
        late_share: Share of them that came later than `bound_s`.
        worst_s: The latest.
        bound_s: The bound.
        is_void: Too many came late, or there were none: the run proves nothing about distance.
    """

    deliveries: int
    late_share: float
    worst_s: float
    bound_s: float
    is_void: bool


def verdict(
    lanes: Sequence[LaneReading],
    *,
    bound_s: float = LATE_BOUND_S,
    share_max: float = LATE_SHARE_MAX,
) -> Verdict:
    """Judge how well time was kept.

    Args:
        lanes: Lateness of each direction.
        bound_s: One of `LATENESS_BOUNDS_S`.
        share_max: Largest share of deliveries that may come later.
    """
    first_late = LATENESS_BOUNDS_S.index(bound_s) + 1
    total = sum(sum(lane.counts) for lane in lanes)
    late = sum(sum(lane.counts[first_late:]) for lane in lanes)
    share = late / total if total else 0.0
    return Verdict(
        deliveries=total,
        late_share=share,
        worst_s=max((lane.worst_s for lane in lanes), default=0.0),
        bound_s=bound_s,
        is_void=not total or share > share_max,
    )


def timing_of(answers: Sequence[Answer]) -> Verdict:
    """Judge what emulators say; the kernel's time is taken as kept."""
    found = verdict([lane for answer in answers for lane in answer.lanes])
    if any(answer.is_timed_by_kernel for answer in answers):
        return replace(found, is_void=False)
    return found


def as_changed(links: Sequence[WanLink], changes: Sequence[LinkChange]) -> tuple[WanLink, ...]:
    """Return directions as they are with what was done to them, but for cuts."""
    factors = {(change.src, change.dst): change.factor for change in changes}
    return tuple(
        replace(link, rtt_s=link.rtt_s * factor, bytes_per_s=link.bytes_per_s / factor)
        for link in links
        for factor in (factors.get((link.src, link.dst), 1.0),)
    )


def merged(
    before: Sequence[LinkChange], changes: Sequence[LinkChange], links: Sequence[WanLink]
) -> tuple[LinkChange, ...]:
    """Return the changes that hold after `changes`; directions as at the start are left out.

    Raises:
        NotFoundError: There is no such direction.
    """
    known = {(link.src, link.dst) for link in links}
    found = {(change.src, change.dst): change for change in before}
    for change in changes:
        if (change.src, change.dst) not in known:
            places = sorted({place for pair in known for place in pair})
            raise NotFoundError(
                f"there is no link from {change.src!r} to {change.dst!r}",
                hint=f"places are {', '.join(places)}; brokers and predictors have no link "
                "between each other",
            )
        found[change.src, change.dst] = change
    return tuple(
        change for change in found.values() if change != LinkChange(change.src, change.dst)
    )


def routes(relays: Sequence[RelayPlan], src: str) -> Mapping[str, str]:
    """Return what `src` must dial in place of each address."""
    return {relay.target: relay.address for relay in relays if relay.src == src}
