"""Options as columns say what the options themselves say."""

from dataclasses import replace

import numpy as np
import pytest

from policies.features import features_of
from policies.offer import cheapest
from policies.options import OptionTable, lowest, numbers_of, pool_of
from testbed.bench.actor import CLUSTER, STATE, announcement_for, options_for
from testbed.samples import FETCH, NOW_S

TASK = announcement_for(12, NOW_S)


@pytest.fixture
def table() -> OptionTable:
    return options_for(TASK)


def test_columns_and_the_options_made_of_them_agree(table: OptionTable) -> None:
    options = list(table)
    assert len(options) == len(table) == 12
    assert [option.is_earliest for option in options] == [True, *[False] * 11]
    np.testing.assert_array_equal(numbers_of(table), numbers_of(options))
    terms = TASK.terms
    for option in options:
        joint_usd = option.charge.joint_usd(terms.scope, terms.carbon_price_usd_per_kg)
        assert option.offer_usd == joint_usd, "to the last bit"
    assert pool_of(table) == pool_of(options) == options[0].pool_type
    assert table[-1] is options[11]
    assert table[2:4] == options[2:4]
    with pytest.raises(IndexError):
        table[12]


def test_features_of_columns_are_those_of_the_options(table: OptionTable) -> None:
    rows = [
        features_of(offered, (FETCH,), TASK, STATE, CLUSTER, now_s=NOW_S, reference=2.0)
        for offered in (table, list(table))
    ]
    np.testing.assert_array_equal(*rows)


def test_of_equal_keys_the_lower_offer_and_then_the_earlier_start_wins(table: OptionTable) -> None:
    first, *rest = table
    later = replace(first, start_s=first.start_s + 1.0, offer_usd=0.5)
    latest = replace(later, start_s=first.start_s + 2.0)
    options = [replace(first, offer_usd=1.0), latest, later]
    assert lowest(np.zeros(3), numbers_of(options)) == 2
    assert lowest(np.array([0.0, 1.0, 0.0]), numbers_of(options)) == 2
    assert lowest(np.array([-1.0, 0.0, 0.0]), numbers_of(options)) == 0
    assert cheapest(options) == 2
    assert cheapest(rest[:1]) == 0
