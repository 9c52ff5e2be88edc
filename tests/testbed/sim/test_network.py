"""Flows that share the ends of their links, against sums by hand and a slow reference."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.ids import SiteId
from gcos.sites import Link
from testbed.sim.engine import Engine
from testbed.sim.network import Network

A, B, C, D = (SiteId(letter) for letter in "abcd")
RATE = 10.0


@dataclass(frozen=True)
class Wish:
    """A transfer to come."""

    start_s: float
    source: SiteId
    target: SiteId
    size_bytes: int
    bytes_per_s: float = RATE
    rtt_s: float = 0.0


def ends_of(*wishes: Wish, shares_bandwidth: bool = True) -> list[float]:
    """Return the end of each transfer."""
    engine = Engine(0.0)
    network = Network(engine, shares_bandwidth=shares_bandwidth)
    ends = [-1.0] * len(wishes)

    def begin(number: int, wish: Wish) -> None:
        def end() -> None:
            assert ends[number] < 0, "ended twice"
            ends[number] = engine.now_s

        link = Link(wish.rtt_s, wish.bytes_per_s, egress_usd_per_gb=0.0)
        network.start(wish.source, wish.target, link, wish.size_bytes, end)

    for number, wish in enumerate(wishes):
        engine.at(wish.start_s, lambda number=number, wish=wish: begin(number, wish))
    engine.run()
    return ends


def test_one_flow_has_its_link_alone() -> None:
    assert ends_of(Wish(3.0, A, B, 50)) == [8.0]


def test_the_first_byte_takes_half_a_round_trip() -> None:
    assert ends_of(Wish(0.0, A, B, 50, rtt_s=2.0)) == [6.0]


def test_two_flows_from_one_source_share_its_uplink_until_one_ends() -> None:
    # 5 bytes/s each until 10 s; then the other's last 50 bytes at 10 bytes/s.
    assert ends_of(Wish(0.0, A, B, 100), Wish(0.0, A, C, 50)) == pytest.approx([15.0, 10.0])


def test_two_flows_to_one_target_share_its_downlink() -> None:
    assert ends_of(Wish(0.0, A, C, 100), Wish(0.0, B, C, 50)) == pytest.approx([15.0, 10.0])


def test_a_flow_that_comes_later_slows_what_is_under_way() -> None:
    # 40 bytes alone until 4 s, then 5 bytes/s each: 60 bytes take until 16 s.
    assert ends_of(Wish(0.0, A, B, 100), Wish(4.0, A, C, 100)) == pytest.approx([16.0, 20.0])


def test_the_narrower_end_counts() -> None:
    # A sends three, so its flow to D gets a third although D receives only two.
    wishes = [Wish(0.0, A, target, 30) for target in (B, C, D)]
    assert ends_of(*wishes, Wish(0.0, B, D, 15))[-1] == pytest.approx(3.0)
    assert ends_of(*wishes, Wish(0.0, B, D, 15))[0] == pytest.approx(9.0)


def test_flows_without_an_end_in_common_do_not_meet() -> None:
    assert ends_of(Wish(0.0, A, B, 100), Wish(0.0, B, A, 100), Wish(0.0, C, D, 100)) == [10.0] * 3


def test_where_bandwidth_is_not_shared_each_flow_has_its_link_alone() -> None:
    ends = ends_of(Wish(0.0, A, B, 100), Wish(0.0, A, B, 50), shares_bandwidth=False)
    assert ends == [10.0, 5.0]


def test_a_flow_may_start_as_another_ends() -> None:
    engine = Engine(0.0)
    network = Network(engine, shares_bandwidth=True)
    ends: list[float] = []
    link = Link(0.0, RATE, 0.0)

    def again() -> None:
        ends.append(engine.now_s)
        if len(ends) < 3:
            network.start(A, B, link, 50, again)

    network.start(A, B, link, 50, again)
    engine.run()
    assert ends == [5.0, 10.0, 15.0]


SITES = st.sampled_from((A, B, C, D))
WISHES = st.lists(
    st.builds(
        Wish,
        start_s=st.integers(0, 10).map(float),
        source=SITES,
        target=SITES,
        size_bytes=st.integers(1, 200),
        bytes_per_s=st.sampled_from((5.0, 10.0, 40.0)),
    ).filter(lambda wish: wish.source != wish.target),
    min_size=1,
    max_size=6,
)


def reference(wishes: list[Wish]) -> list[float]:
    """Return the ends by moving from change to change and recomputing every rate."""
    left = [float(wish.size_bytes) for wish in wishes]
    ends = [-1.0] * len(wishes)
    now_s = 0.0
    while min(ends) < 0:
        live = [i for i, wish in enumerate(wishes) if wish.start_s <= now_s and ends[i] < 0]
        rates = {}
        for i in live:
            leaving = sum(wishes[j].source == wishes[i].source for j in live)
            coming = sum(wishes[j].target == wishes[i].target for j in live)
            rates[i] = wishes[i].bytes_per_s / max(leaving, coming)
        changes = [wish.start_s for wish in wishes if wish.start_s > now_s]
        changes += [now_s + left[i] / rates[i] for i in live]
        next_s = min(changes)
        for i in live:
            is_over = now_s + left[i] / rates[i] <= next_s + 1e-9
            left[i] = 0.0 if is_over else left[i] - rates[i] * (next_s - now_s)
            ends[i] = next_s if is_over else -1.0
        now_s = next_s
    return ends


@given(wishes=WISHES)
def test_ends_are_those_of_the_slow_reference(wishes: list[Wish]) -> None:
    assert ends_of(*wishes) == pytest.approx(reference(wishes), abs=1e-6)


@given(wishes=WISHES)
def test_contention_only_lengthens(wishes: list[Wish]) -> None:
    for wish, end_s in zip(wishes, ends_of(*wishes), strict=True):
        assert end_s - wish.start_s >= wish.size_bytes / wish.bytes_per_s - 1e-9


@given(
    starts_and_sizes=st.lists(
        st.tuples(st.integers(0, 20), st.integers(1, 100)), min_size=1, max_size=6
    )
)
def test_a_source_sends_every_byte_once(starts_and_sizes: list[tuple[int, int]]) -> None:
    """With equal links the source is busy just as long as all bytes take, one after the other."""
    targets = [SiteId(f"t{i}") for i in range(len(starts_and_sizes))]
    wishes = [
        Wish(float(start), A, target, size)
        for (start, size), target in zip(starts_and_sizes, targets, strict=True)
    ]
    busy_s, until_s = 0.0, 0.0
    for wish, end_s in sorted(
        zip(wishes, ends_of(*wishes), strict=True), key=lambda pair: pair[0].start_s
    ):
        busy_s += max(0.0, end_s - max(until_s, wish.start_s))
        until_s = max(until_s, end_s)
    assert busy_s == pytest.approx(sum(size for _, size in starts_and_sizes) / RATE)
