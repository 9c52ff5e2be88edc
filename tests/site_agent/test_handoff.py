"""Custody moves, and at no instant is no copy protected."""

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gcos.errors import WrongStateError
from gcos.ids import ArtifactId, SiteId
from site_agent.handoff import Custody, CustodyAnswer, CustodyOffer, Handoffs, Step

THING = ArtifactId("sha256:" + "1" * 64)
DE, ON, TEX = (SiteId(name) for name in ("de", "on", "tex"))
SITES = (DE, ON, TEX)


def offer(epoch: int, giver: SiteId = DE) -> CustodyOffer:
    return CustodyOffer(THING, epoch, giver)


def taken(epoch: int) -> CustodyAnswer:
    return CustodyAnswer(THING, epoch, is_taken=True)


def test_custody_is_written_by_the_taker_before_the_giver_lets_go() -> None:
    giver, taker = Handoffs(DE), Handoffs(ON)
    begun = giver.offer(THING, ON)
    assert begun.writes == (Custody(THING, 0, DE, offered_to=ON),)
    assert begun.offers == ((ON, offer(1)),)
    answer, step = taker.offered(offer(1), has_copy=True)
    assert answer == taken(1)
    assert step == Step(writes=(Custody(THING, 1, ON, is_done=False),), protect=(THING,))
    ended = giver.answered(answer)
    assert ended == Step(writes=(Custody(THING, 1, ON, is_done=False),), let_go=((THING, ON),))
    assert giver.done(THING).writes == (Custody(THING, 1, ON),)
    assert giver.due() == ()


def test_who_has_no_copy_refuses_and_the_giver_stays() -> None:
    giver, taker = Handoffs(DE), Handoffs(ON)
    giver.offer(THING, ON)
    answer, step = taker.offered(offer(1), has_copy=False)
    assert not answer.is_taken
    assert step == Step()
    assert giver.answered(answer).let_go == ()
    assert giver.offer(THING, TEX).offers == ((TEX, offer(2)),), "the next one has a new number"


def test_an_unanswered_offer_is_repeated_after_a_restart_too() -> None:
    giver = Handoffs(DE)
    (kept,) = giver.offer(THING, ON).writes
    assert giver.due() == ((ON, offer(1)),)
    again = Handoffs(DE)
    assert again.restore([kept]) == Step(offers=((ON, offer(1)),))


def test_a_restart_does_again_what_it_cannot_know_to_be_done() -> None:
    undone = Custody(THING, 3, DE, is_done=False)
    assert Handoffs(DE).restore([undone]).protect == (THING,)
    assert Handoffs(ON).restore([undone]).let_go == ((THING, DE),)
    assert Handoffs(ON).restore([Custody(THING, 3, DE)]) == Step()


def test_an_offer_that_is_overtaken_counts_as_taken() -> None:
    taker = Handoffs(ON)
    taker.restore([Custody(THING, 5, TEX)])
    assert taker.offered(offer(2), has_copy=False) == (taken(2), Step())


def test_an_answer_to_another_offer_changes_nothing() -> None:
    giver = Handoffs(DE)
    assert giver.answered(taken(1)) == Step()
    giver.offer(THING, ON)
    assert giver.answered(taken(2)) == Step()
    assert giver.due() == ((ON, offer(1)),)


def test_custody_is_offered_once_and_by_the_custodian_alone() -> None:
    giver = Handoffs(DE)
    giver.offer(THING, ON)
    with pytest.raises(WrongStateError, match="offered to on already"):
        giver.offer(THING, TEX)
    other = Handoffs(ON)
    other.restore([Custody(THING, 1, DE, is_done=False)])
    with pytest.raises(WrongStateError, match="de is the custodian"):
        other.offer(THING, TEX)


@dataclass
class Machine:
    """A site with a disk: a journal, a copy and its mark of protection."""

    core: Handoffs
    journal: dict[ArtifactId, Custody] = field(default_factory=dict)
    has_copy: bool = False
    is_protected: bool = False


class Moves(RuleBasedStateMachine):
    """Messages are lost, repeated and delayed; sites crash between any two actions of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = {site_id: Machine(Handoffs(site_id)) for site_id in SITES}
        self.sites[DE].has_copy = self.sites[DE].is_protected = True
        self.offers: list[tuple[SiteId, CustodyOffer]] = []
        self.answers: list[tuple[SiteId, CustodyAnswer]] = []

    def carry_out(self, machine: Machine, step: Step, left: int) -> bool:
        """Do a step; after `left` actions the site crashes and returns. False: it crashed."""
        actions = [
            *(("write", each) for each in step.writes),
            *(("protect", each) for each in step.protect),
            *(("let go", each) for each, _ in step.let_go),
        ]
        for action, value in actions:
            if left == 0:
                self.restart(machine)
                return False
            left -= 1
            if isinstance(value, Custody):
                machine.journal[value.artifact_id] = value
            elif action == "protect":
                machine.is_protected = machine.has_copy
                for each in machine.core.done(value).writes:
                    machine.journal[each.artifact_id] = each
            else:
                machine.is_protected = False
                for each in machine.core.done(value).writes:
                    machine.journal[each.artifact_id] = each
        self.offers += step.offers
        return True

    def restart(self, machine: Machine) -> None:
        machine.core = Handoffs(machine.core.site_id)
        self.carry_out(machine, machine.core.restore(machine.journal.values()), left=99)

    @rule(site_id=st.sampled_from(SITES))
    def fetch(self, site_id: SiteId) -> None:
        self.sites[site_id].has_copy = True

    @rule(site_id=st.sampled_from(SITES))
    def evict(self, site_id: SiteId) -> None:
        machine = self.sites[site_id]
        if not machine.is_protected:
            machine.has_copy = False

    @rule(site_id=st.sampled_from(SITES), to=st.sampled_from(SITES), left=st.integers(0, 4))
    def begin(self, site_id: SiteId, to: SiteId, left: int) -> None:
        machine = self.sites[site_id]
        if site_id == to or not (machine.has_copy and machine.is_protected):
            return
        try:
            step = machine.core.offer(THING, to)
        except WrongStateError:
            return
        self.carry_out(machine, step, left)

    @precondition(lambda self: self.offers)
    @rule(data=st.data(), left=st.integers(0, 4), is_repeated=st.booleans())
    def deliver_offer(self, data: st.DataObject, left: int, is_repeated: bool) -> None:
        index = data.draw(st.integers(0, len(self.offers) - 1))
        to, sent = self.offers[index] if is_repeated else self.offers.pop(index)
        machine = self.sites[to]
        answer, step = machine.core.offered(sent, has_copy=machine.has_copy)
        if self.carry_out(machine, step, left):
            self.answers.append((sent.giver, answer))

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), left=st.integers(0, 4), is_repeated=st.booleans())
    def deliver_answer(self, data: st.DataObject, left: int, is_repeated: bool) -> None:
        index = data.draw(st.integers(0, len(self.answers) - 1))
        to, answer = self.answers[index] if is_repeated else self.answers.pop(index)
        machine = self.sites[to]
        self.carry_out(machine, machine.core.answered(answer), left)

    @rule(site_id=st.sampled_from(SITES))
    def repeat(self, site_id: SiteId) -> None:
        self.offers += self.sites[site_id].core.due()

    @rule(site_id=st.sampled_from(SITES))
    def crash(self, site_id: SiteId) -> None:
        self.restart(self.sites[site_id])

    @invariant()
    def some_copy_is_protected(self) -> None:
        assert any(site.has_copy and site.is_protected for site in self.sites.values()), "I5"

    def teardown(self) -> None:
        """Once messages get through, every offer ends."""
        for _ in range(4):
            for machine in self.sites.values():
                for to, sent in machine.core.due():
                    taker = self.sites[to]
                    answer, step = taker.core.offered(sent, has_copy=taker.has_copy)
                    self.carry_out(taker, step, 99)
                    self.carry_out(machine, machine.core.answered(answer), 99)
        assert all(machine.core.due() == () for machine in self.sites.values())
        self.some_copy_is_protected()


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=300, stateful_step_count=40)
