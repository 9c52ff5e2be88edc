"""Every policy by its name."""

import pytest

from gcos.errors import InvalidRequestError
from policies.catalogue import DEFAULT, POLICIES, policy_named


def test_the_names_are_those_that_reports_use() -> None:
    assert list(POLICIES)[:12] == [
        "random",
        "round-robin",
        "local",
        "least-loaded",
        "cost-greedy",
        "carbon-greedy",
        "locality",
        "wait-local",
        "wait-best",
        "joint",
        "joint-lookahead",
        "joint+reauction",
    ]
    assert DEFAULT in POLICIES


@pytest.mark.parametrize("name", list(POLICIES))
def test_each_site_gets_a_bidder_of_its_own_that_names_its_policy(name: str) -> None:
    policy = policy_named(name)
    assert policy.name == name
    assert policy.summary
    first, second = policy.bidder(), policy.bidder()
    assert first is not second
    assert first.actor == second.actor
    assert first.actor


def test_baselines_that_do_not_say_so_neither_wait_nor_give_back() -> None:
    waiting = {name for name, policy in POLICIES.items() if policy.bidder().may_start_later}
    assert waiting == {"wait-local", "wait-best", "joint-lookahead"}
    giving = {name for name, policy in POLICIES.items() if policy.gives_back_late}
    assert "joint+reauction" in giving
    assert not giving & {"joint", "joint-lookahead", "random", "locality", *waiting}


def test_a_name_that_is_near_is_proposed() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        policy_named("localty", field="policies")
    assert caught.value.field == "policies"
    assert "locality" in (caught.value.hint or "")


def test_where_none_is_near_all_are_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        policy_named("xyzzy")
    assert all(name in (caught.value.hint or "") for name in POLICIES)
