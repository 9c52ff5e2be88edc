"""Recorded decisions come out alike when they are made again; changed ones do not pass for it."""

from dataclasses import replace

import pytest
import structlog
from structlog.testing import LogCapture

from gcos import codec
from gcos.errors import GcosError, InvalidRequestError
from gcos.ids import SiteId
from policies.catalogue import policy_named
from policies.interface import Choice
from site_agent.decision_log import DecisionLog
from site_agent.decisions import (
    AwardDecision,
    Decision,
    RecordingBidder,
    decisions_in,
    replayed,
)
from testbed.learned_bids import bidders_of, with_task_actor
from testbed.sim.samples import Sample, instance_of
from testbed.sim.simulation import OpenAuction, Simulation


def recorded(policy_name: str) -> list[Decision]:
    """Run a small world over the live cores and return the bids and awards that were made."""
    found: list[Decision] = []
    policy = with_task_actor(policy_named(policy_name))
    recording = replace(
        policy, bidder=lambda: RecordingBidder(policy_name, policy.bidder(), found.append)
    )
    simulation: Simulation

    def settle(open_auction: OpenAuction) -> None:
        task_id = open_auction.announcement.task_id
        origin = simulation.places[open_auction.announcement.origin].origin
        spec = origin.tasks[task_id].spec
        open_auction.settle(open_auction.auction)
        bid = origin.tasks[task_id].bid
        assert bid is not None
        decision = AwardDecision(0.0, task_id, 1, spec, open_auction.auction, bid.site_id)
        found.append(Decision(award=decision))

    simulation = Simulation(
        instance_of(Sample(seed=3, site_count=3, task_count=40)), recording, arbiter=settle
    )
    simulation.run()
    return found


@pytest.mark.parametrize("policy", ["joint", "rule", "random", "round-robin", "joint-lookahead"])
def test_what_was_decided_is_decided_again(policy: str) -> None:
    found = recorded(policy)
    again = replayed(found)
    assert again.bids >= 3 * 40
    assert again.awards >= 40
    assert again.differences == ()
    assert again.same_ratio == 1.0


def test_what_a_learned_bidder_saw_is_read_back_as_it_was() -> None:
    found = recorded("maccs")
    stored = b"".join(codec.encode(decision) + b"\n" for decision in found)
    read = decisions_in(stored)
    assert any(decision.bid and decision.bid.features for decision in read)
    again = replayed(read, bidders_of)
    assert again.bids >= 3 * 40
    assert again.differences == ()


def test_a_recording_survives_its_file(tmp_path) -> None:
    found = recorded("rule")
    path = tmp_path / "decisions.jsonl"
    for part in (found[:50], found[50:]):  # an agent that restarts goes on
        with DecisionLog(path, structlog.get_logger()) as log:
            for decision in part:
                log.write(decision)
    with path.open("ab") as file:
        file.write(b'{"bid":{"poli')  # the machine died here
    assert decisions_in(path.read_bytes()) == found
    assert replayed(decisions_in(path.read_bytes())).same_ratio == 1.0
    with DecisionLog(path, structlog.get_logger()) as log:
        log.write(found[0])
    assert decisions_in(path.read_bytes()) == [*found, found[0]]


def test_a_recording_that_holds_no_whole_line_begins_anew(tmp_path) -> None:
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b"x" * 100_000)
    with DecisionLog(path, structlog.get_logger()):
        pass
    assert path.read_bytes() == b""


def test_another_choice_is_told_apart() -> None:
    found = recorded("least-loaded")
    bid = next(each.bid for each in found if each.bid is not None)
    award = next(each.award for each in found if each.award is not None)
    changed = [
        Decision(bid=replace(bid, choice=Choice(bid.choice.index, bid.choice.score_ratio + 1.0))),
        Decision(bid=replace(bid, actor="least-loaded/0")),
        Decision(award=replace(award, chosen=SiteId("elsewhere"))),
    ]
    again = replayed(changed)
    assert len(again.differences) == 3
    assert again.same_ratio == 0.0
    assert "instead of elsewhere" in again.differences[2]


def test_nothing_recorded_proves_nothing() -> None:
    assert replayed([]).same_ratio == 0.0
    with pytest.raises(InvalidRequestError, match="no decision"):
        replayed([Decision()])
    with pytest.raises(GcosError, match="line 1"):
        decisions_in(b"{no json\n")


def test_a_recording_ends_at_its_bound(tmp_path) -> None:
    decision = recorded("joint")[0]
    told = LogCapture()
    log = structlog.wrap_logger(structlog.PrintLogger(), processors=[told])
    path = tmp_path / "decisions.jsonl"
    with DecisionLog(path, log, bytes_max=3_000) as recording:
        for _ in range(100):
            recording.write(decision)
    assert 0 < path.stat().st_size <= 3_000
    assert [entry["event"] for entry in told.entries] == ["decisions_full"]
