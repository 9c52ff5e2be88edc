import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.contract_net import RATE_DRIFT
from site_agent.lease import LEASE_S, LeaseTerms

#: Seconds that a site's clock gains per true second; the origin's is the measure.
RATES = st.floats(1 - RATE_DRIFT, 1 + RATE_DRIFT)
DELAYS = st.floats(0, 1e4)


@given(
    lease_s=st.floats(0.1, 3600),
    rate=RATES,
    sent_s=st.floats(0, 1e6),
    request_s=DELAYS,
    offset_s=st.floats(0, 1e6),
)
def test_the_holder_has_stopped_before_the_origin_moves_on(
    lease_s: float, rate: float, sent_s: float, request_s: float, offset_s: float
) -> None:
    """I3: true time runs with the origin's clock; the holder's differs in rate and offset.

    However long the answer takes does not matter: the holder counts from its sending.
    """
    terms = LeaseTerms(lease_s)
    holder_sent_s = offset_s + rate * sent_s
    holder_stops_s = (terms.holder_until_s(holder_sent_s) - offset_s) / rate
    origin_moves_on_s = terms.origin_until_s(sent_s + request_s)
    assert holder_stops_s < origin_moves_on_s


@given(
    rate=RATES, beats=st.lists(st.tuples(DELAYS, DELAYS, st.booleans()), min_size=1, max_size=10)
)
def test_it_has_stopped_whichever_answers_were_lost(
    rate: float, beats: list[tuple[float, float, bool]]
) -> None:
    terms = LeaseTerms()
    t_s, holder_until_s, origin_until_s = 0.0, 0.0, 0.0
    for pause_s, request_s, has_answer in beats:
        t_s += pause_s
        origin_until_s = max(origin_until_s, terms.origin_until_s(t_s + request_s))
        if has_answer:
            holder_until_s = max(holder_until_s, terms.holder_until_s(rate * t_s))
    assert holder_until_s / rate < origin_until_s


def test_two_renewals_in_a_row_may_be_lost() -> None:
    terms = LeaseTerms()
    assert 2 * terms.renewal_s < terms.holder_until_s(0.0) - terms.renewal_s * 0.9


def test_the_design_s_durations_are_the_default() -> None:
    terms = LeaseTerms()
    assert terms.lease_s == LEASE_S == 30.0
    assert terms.renewal_s == pytest.approx(10.0)
    assert terms.margin_s == pytest.approx(3.0)
