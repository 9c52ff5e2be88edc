from hypothesis import given
from hypothesis import strategies as st

from gcos.ids import SiteId
from site_agent.links import BURST_S, Links, Priority, TokenBucket

FRA, SIN = SiteId("fra"), SiteId("sin")


@given(
    st.floats(1e3, 1e9),
    st.lists(st.tuples(st.integers(1, 1 << 22), st.floats(0.0, 2.0)), min_size=1, max_size=40),
)
def test_no_interval_passes_more_than_the_rate_and_a_burst(
    rate: float, asks: list[tuple[int, float]]
) -> None:
    """Of what was let go by an instant, all but a burst fits into the time since the first ask."""
    bucket = TokenBucket(rate)
    now_s = 0.0
    passed: list[tuple[float, int]] = []
    for size, pause in asks:
        now_s += pause
        passed.append((now_s + bucket.take(size, now_s=now_s), size))
    for until_s, _ in passed:
        total = sum(size for at_s, size in passed if at_s <= until_s)
        assert total <= rate * (until_s + BURST_S) * (1 + 1e-9) + 1e-6


def test_an_idle_link_sends_a_burst_at_once_and_then_waits() -> None:
    bucket = TokenBucket(1000.0)
    assert bucket.take(250, now_s=10.0) == 0.0
    assert bucket.take(500, now_s=10.0) == 0.5
    assert bucket.take(100, now_s=100.0) == 0.0


def test_each_link_has_a_cap_of_its_own() -> None:
    links = Links(1000.0)
    assert links.wait_s(FRA, 1250, now_s=0.0) == 1.0
    assert links.wait_s(SIN, 250, now_s=0.0) == 0.0
    assert links.burst_bytes == 250.0


def test_without_a_cap_nothing_waits() -> None:
    links = Links(0.0)
    assert links.wait_s(FRA, 1 << 60, now_s=0.0) == 0.0
    assert links.burst_bytes == float("inf")


def test_background_yields_to_any_foreground() -> None:
    links = Links(0.0)
    links.begin(Priority.BACKGROUND)
    assert not links.must_yield(Priority.BACKGROUND)
    links.begin(Priority.FOREGROUND)
    assert links.must_yield(Priority.BACKGROUND)
    assert not links.must_yield(Priority.FOREGROUND)
    links.end(Priority.FOREGROUND)
    assert not links.must_yield(Priority.BACKGROUND)
