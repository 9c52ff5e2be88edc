"""Nobody leads a site to where it may not go: not by name, address, redirect or DNS."""

import ipaddress
from collections.abc import Sequence

import httpx2
import pytest

from gcos.errors import InvalidRequestError
from site_agent.sources.allowed import AllowList, allow_list, is_public
from site_agent.sources.guarded_http import guarded_client, told
from site_agent.sources.source import TransientError
from testbed.fake_registries import FakeUpstream

PUBLIC = "93.184.216.34"


def listed(*hosts: str, networks: Sequence[str] = (), answers: Sequence[str] = ()) -> AllowList:
    """An allow-list with a resolver that answers once with each of `answers`."""
    waiting = [[each] for each in answers]
    return allow_list(hosts, networks, (), resolve=lambda _host, _port: waiting.pop(0))


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1"),
        *("::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "ff02::1", "240.0.0.1"),
    ],
)
def test_special_addresses_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    with pytest.raises(InvalidRequestError, match="no public address"):
        listed("a.example", answers=[text]).addresses("a.example", 443)


@pytest.mark.parametrize("text", [PUBLIC, "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_public(text: str) -> None:
    assert listed("a.example", answers=[text]).addresses("a.example", 443) == [text]


def test_a_listed_network_may_be_private() -> None:
    allowed = listed("a.example", networks=["10.0.0.0/8"], answers=["10.1.2.3", "11.1.2.3"])
    assert allowed.addresses("a.example", 443) == ["10.1.2.3"]
    assert allowed.addresses("a.example", 443) == ["11.1.2.3"], "public anyway"


def test_one_address_inside_the_house_spoils_a_name() -> None:
    allowed = allow_list(["a.example"], [], [], resolve=lambda *_: [PUBLIC, "127.0.0.1"])
    with pytest.raises(InvalidRequestError, match="no public address"):
        allowed.addresses("a.example", 443)


def test_a_name_that_is_not_known_may_be_later() -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise OSError("Temporary failure in name resolution")

    with pytest.raises(TransientError, match="no address is known"):
        allow_list(["a.example"], [], [], resolve=resolve).addresses("a.example", 443)


@pytest.mark.parametrize(
    ("rule", "url", "is_allowed"),
    [
        ("a.example", "https://a.example/x", True),
        ("a.example", "https://A.Example./x", True),
        ("a.example", "https://a.example:8443/x", True),
        ("a.example:443", "https://a.example:8443/x", False),
        ("a.example", "http://a.example/x", False),
        ("http://a.example", "http://a.example/x", True),
        ("http://a.example", "https://a.example/x", False),
        ("a.example", "https://b.a.example/x", False),
        ("*.a.example", "https://b.a.example/x", True),
        ("*.a.example", "https://a.example/x", False),
        ("*.a.example", "https://aXa.example/x", False),
        ("a.example", "https://a.example@evil.example/x", False),
        ("a.example", "ftp://a.example/x", False),
    ],
)
def test_hosts_are_matched_whole(rule: str, url: str, is_allowed: bool) -> None:
    allowed = allow_list([rule], [], [])
    if is_allowed:
        allowed.check_url(url)
        return
    with pytest.raises(InvalidRequestError, match="reads nothing from"):
        allowed.check_url(url)


@pytest.mark.parametrize("rule", ["*", "", "a.*", "https://*", "a.example/path", "ftp://a", "a:b"])
def test_a_rule_that_would_allow_anything_is_refused(rule: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no host"):
        allow_list([rule], [], [])


def test_the_connection_goes_to_the_address_that_was_checked(upstream: FakeUpstream) -> None:
    """A name that answers differently the second time (DNS rebinding) gains nothing."""
    port = upstream.url.rpartition(":")[2]
    upstream.put("/x", b"x")
    allowed = listed("http://a.example", networks=["127.0.0.1/32"], answers=["127.0.0.1"])
    with guarded_client(allowed) as client:
        assert client.get(f"http://a.example:{port}/x").content == b"x"
    assert upstream.asked[0].headers["host"] == f"a.example:{port}"
    rebound = listed("http://a.example", answers=["127.0.0.1"])
    with (
        guarded_client(rebound) as client,
        pytest.raises(InvalidRequestError, match="no public address"),
        told("x"),
    ):
        client.get(f"http://a.example:{port}/x")
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "to",
    ["http://169.254.169.254/latest/meta-data", "http://other.example/x", "file:///etc/passwd"],
)
def test_every_redirect_is_checked(upstream: FakeUpstream, to: str) -> None:
    url = upstream.redirect("/x", to)
    allowed = allow_list(["http://127.0.0.1", "http://169.254.169.254"], ["127.0.0.1/32"], [])
    with (
        guarded_client(allowed) as client,
        pytest.raises((InvalidRequestError, httpx2.UnsupportedProtocol)),
        told("x"),
    ):
        client.get(url)


def test_redirects_in_a_circle_end(upstream: FakeUpstream) -> None:
    url = upstream.redirect("/x", "/x")
    allowed = allow_list(["http://127.0.0.1"], ["127.0.0.1/32"], [])
    with guarded_client(allowed) as client, pytest.raises(Exception, match="redirects"), told("x"):
        client.get(url)
    assert len(upstream.asked) == 6


def test_proxies_of_the_environment_are_not_used(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    url = upstream.put("/x", b"x")
    allowed = allow_list(["http://127.0.0.1"], ["127.0.0.1/32"], [])
    with guarded_client(allowed) as client:
        assert client.get(url).content == b"x"
