"""Which backend a testbed runs on, and what carries its links: as asked for, else the best here."""

from dataclasses import dataclass
from enum import Enum

from gcos.errors import InvalidRequestError, UnavailableError
from testbed.wan.namespaces import best_carrier
from testbed.wan.records import Carrier

AUTO = "auto"


class Backend(Enum):
    """Where processes of a testbed run."""

    #: On loopback, as those of `gcos up`.
    RELAY = "relay"
    #: Each in a network namespace of its own.
    NETNS = "netns"
    #: Each in a container of its own.
    DOCKER = "docker"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for.

    Attributes:
        backend: Where processes run; None: the best that there is.
        carrier: What carries links; None: the best that there is.
    """

    backend: Backend | None
    carrier: Carrier | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What carries the links of processes that run at this machine.

    Attributes:
        carrier: Relays, or the kernel between network namespaces.
        reason: Why it is that, for people.
    """

    carrier: Carrier
    reason: str


def wished(backend: str, carrier: str) -> Wish:
    """Return what two options ask for.

    Raises:
        InvalidRequestError: One of them names nothing that there is, or they do not go together.
    """
    names = [each.value for each in Backend]
    if backend not in {AUTO, *names}:
        raise InvalidRequestError(
            f"{backend!r} is no backend",
            field="backend",
            hint=f"there are: {AUTO}, {', '.join(names)}",
        )
    carriers = [each.value for each in Carrier]
    if carrier not in {AUTO, *carriers}:
        raise InvalidRequestError(
            f"{carrier!r} carries no links",
            field="links",
            hint=f"there are: {AUTO}, {', '.join(carriers)}",
        )
    asked = Wish(
        None if backend == AUTO else Backend(backend),
        None if carrier == AUTO else Carrier(carrier),
    )
    is_relayed = asked.carrier is Carrier.RELAY
    if (asked.backend is Backend.RELAY and asked.carrier not in {None, Carrier.RELAY}) or (
        asked.backend is Backend.NETNS and is_relayed
    ):
        raise InvalidRequestError(
            f"links of the backend {backend} are not carried by {carrier}",
            field="links",
            hint="on loopback relays carry them, between network namespaces the kernel does",
        )
    return asked


def chosen(wish: Wish) -> Choice:
    """Return what carries links of processes at this machine.

    Raises:
        UnavailableError: What is asked for cannot be had here; the message says why.
    """
    if wish.backend is Backend.RELAY or wish.carrier is Carrier.RELAY:
        return Choice(Carrier.RELAY, "links: relays on loopback, as asked for")
    best, why = best_carrier()
    if wish.carrier is Carrier.NFQUEUE and best is Carrier.NETEM:
        best = Carrier.NFQUEUE
    if best is Carrier.RELAY and (wish.backend or wish.carrier):
        raise UnavailableError(
            f"the kernel does not carry links here: {why}", hint="use --backend relay"
        )
    if wish.carrier is not None and wish.carrier is not best:
        raise UnavailableError(
            f"{wish.carrier.value} cannot be had here: {why}", hint="leave --links out"
        )
    if best is Carrier.RELAY:
        return Choice(best, f"links: relays on loopback, since {why}")
    return Choice(
        best, f"links: {best.value} between network namespaces, since we are root and {why}"
    )
