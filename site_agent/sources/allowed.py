"""Which hosts, addresses and roots a site may read from (allow-list).

A reference comes from a client, and what it names answers with further addresses: redirects, and
DNS answers that change between two questions. So every hop is checked by host, every name is
resolved here, each of its addresses is checked, and the connection is made to an address that was
checked, never to the name again. Private, loopback, link-local and other special addresses are
refused unless the operator lists their network.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from gcos.errors import GcosError, InvalidRequestError
from site_agent.sources.reference import wrong_reference
from site_agent.sources.source import TransientError, UnknownHostError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Prefixes that carry an IPv4 address in their last 32 bits: NAT64 (RFC 6052, RFC 8215).
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


def system_addresses(host: str, port: int) -> list[str]:
    """Return what the system's resolver answers. Blocking.

    Raises:
        OSError: It knows no address.
    """
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


@dataclass(frozen=True, slots=True)
class HostRule:
    """A host that may be asked.

    Attributes:
        scheme: `https`, or `http` where the operator wrote it out.
        pattern: Lower-case name or address; `*.` in front stands for any names below.
        port: This one only; None: any.
    """

    scheme: str
    pattern: str
    port: int | None

    def covers(self, scheme: str, host: str, port: int) -> bool:
        """Tell whether the rule allows this hop."""
        return (
            scheme == self.scheme and fnmatchcase(host, self.pattern) and self.port in {None, port}
        )


@dataclass(frozen=True, slots=True)
class AllowList:
    """What a site may read. Made by `allow_list`.

    Attributes:
        hosts: Hosts of HTTP.
        networks: Networks that are special and allowed all the same.
        roots: Addresses of object stores below which may be read, such as `s3://bucket/models`.
        resolve: Returns the addresses of a host; blocking.
    """

    hosts: tuple[HostRule, ...]
    networks: tuple[Network, ...]
    roots: tuple[str, ...]
    resolve: Callable[[str, int], Sequence[str]] = system_addresses

    def check_hop(self, scheme: str, host: str, port: int) -> None:
        """Check one hop before anything is resolved.

        Raises:
            InvalidRequestError: The host, or HTTP without TLS to it, is not allowed.
        """
        host = host.lower().rstrip(".")
        if not any(rule.covers(scheme, host, port) for rule in self.hosts):
            written = f"{host}:{port}" if scheme == "https" else f"{scheme}://{host}:{port}"
            raise wrong_reference(
                f"this site reads nothing from {scheme}://{host}:{port}",
                hint=f"its operator may add {written!r} to hosts of [sources] and restart it",
            )

    def check_url(self, url: str) -> None:
        """Check the address of one hop, as `check_hop` does.

        Raises:
            InvalidRequestError: It is not allowed.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80}.get(parts.scheme, 443)
        except ValueError as exc:
            raise wrong_reference(f"{url[:80]!r} is no address", hint=str(exc)) from exc
        self.check_hop(parts.scheme, parts.hostname or "", port)

    def addresses(self, host: str, port: int) -> list[str]:
        """Return addresses of a host that may be connected to. Blocking.

        All of its addresses are checked: a name that also leads inside is not to be trusted.

        Raises:
            InvalidRequestError: One of them is special and in no listed network.
            UnknownHostError: The name is not known just now.
        """
        try:
            found = list(self.resolve(host, port))
        except OSError as exc:
            raise UnknownHostError(f"no address is known of {host}: {exc}", host=host) from exc
        if not found:
            raise UnknownHostError(f"no address is known of {host}", host=host)
        for text in found:
            self.check_address(host, text)
        return found

    def check_address(self, host: str, text: str) -> None:
        """Check one address of a host.

        Raises:
            InvalidRequestError: It is special and in no listed network.
        """
        address = _unwrapped(ipaddress.ip_address(text.partition("%")[0]))
        if is_public(address) or any(address in network for network in self.networks):
            return
        raise wrong_reference(
            f"{host} leads to {address}, which is no public address",
            hint=f"its operator may add '{address}/{address.max_prefixlen}' to networks of"
            " [sources] and restart it",
        )

    def check_root(self, url: str) -> None:
        """Check the address of an object or prefix.

        Raises:
            InvalidRequestError: It lies below no listed root.
        """
        if not any(url == root or url.startswith(f"{root}/") for root in self.roots):
            raise wrong_reference(
                f"{url[:80]!r} lies below no root that this site reads from",
                hint="its operator may add its bucket to roots of [sources]"
                f" (now: {', '.join(self.roots) or 'none'}) and restart it",
            )


def allow_list(
    hosts: Sequence[str],
    networks: Sequence[str],
    roots: Sequence[str],
    *,
    resolve: Callable[[str, int], Sequence[str]] = system_addresses,
) -> AllowList:
    """Return the allow-list that a configuration spells.

    Args:
        hosts: Such as `huggingface.co`, `*.hf.co`, `mirror.local:8443`; `http://` in front allows
            HTTP without TLS.
        networks: Such as `10.0.0.0/8`.
        roots: Such as `s3://bucket/models`.
        resolve: Returns the addresses of a host; blocking.

    Raises:
        InvalidRequestError: One of them cannot be understood.
    """
    for root in roots:
        if "://" not in root or "::" in root:
            raise InvalidRequestError(
                f"{root!r} is no address of objects", field="sources.roots", hint="s3://bucket/path"
            )
    return AllowList(
        tuple(_host_rule(text) for text in hosts),
        tuple(_network(text) for text in networks),
        tuple(root.rstrip("/") for root in roots),
        resolve,
    )


def is_public(address: Address) -> bool:
    """Tell whether anybody could reach an address, which gives nothing away then."""
    address = _unwrapped(address)
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if any(address in prefix for prefix in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    inner = address.ipv4_mapped or address.sixtofour
    return address if inner is None else inner


def _host_rule(text: str) -> HostRule:
    scheme, separator, rest = text.partition("://")
    scheme, rest = (scheme, rest) if separator else ("https", text)
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    is_good = (
        scheme in {"http", "https"}
        and host
        and host != "*"
        and not parts.path.strip("/")
        and "*" not in host.removeprefix("*.")
        and not any(sign in host for sign in "?[]!")
    )
    if not is_good or host is None:
        raise InvalidRequestError(
            f"{text!r} is no host", field="sources.hosts", hint="write name, *.name or name:port"
        )
    return HostRule(scheme, pattern=host.lower(), port=port)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        raise InvalidRequestError(
            f"{text!r} is no network: {exc}", field="sources.networks", hint="such as 10.0.0.0/8"
        ) from exc


def blame(error: BaseException) -> GcosError | TransientError | None:
    """Return the refusal or failure of ours that a library's error came from, if any."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, GcosError | TransientError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
