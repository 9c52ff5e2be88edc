"""Tails of outputs are short, begin where they say, and cut no line or character needlessly."""

from hypothesis import given
from hypothesis import strategies as st

from gcos.contract_net import Renewal, RenewalAnswer, RunProgress, Verdict
from gcos.ids import RunId, SiteId
from gcos.log_tails import TAIL_BYTES_MAX, HeardTail, LogTail, tail_of
from gcos.rpc.wire import from_proto, to_proto
from gcos.task_events import TaskEvent
from gcos.tasks import Reason, RunState
from gcos.v1 import site_pb2, tasks_pb2


@given(st.binary(max_size=3 * TAIL_BYTES_MAX), st.integers(0, TAIL_BYTES_MAX))
def test_a_tail_is_bounded_and_sane_whatever_was_written(output: bytes, more: int) -> None:
    tail = tail_of(output, end_bytes=len(output) + more)
    assert tail.is_sane
    assert tail.end_bytes == len(output) + more


@given(st.lists(st.text(st.characters(exclude_characters="\n\0"), max_size=30), max_size=200))
def test_a_tail_of_text_is_the_end_of_it_and_begins_with_a_line(lines: list[str]) -> None:
    output = "".join(f"{line}\n" for line in lines).encode(errors="replace")
    tail = tail_of(output[-TAIL_BYTES_MAX:], end_bytes=len(output))
    assert tail.text.encode() == output[tail.offset_bytes :]
    assert tail.offset_bytes == 0 or output[tail.offset_bytes - 1 : tail.offset_bytes] == b"\n"


def test_a_long_line_is_cut_between_characters() -> None:
    output = ("x" + "\u20ac" * TAIL_BYTES_MAX).encode()
    tail = tail_of(output, end_bytes=len(output))
    assert set(tail.text) == {"\u20ac"}
    assert tail.text.encode() == output[tail.offset_bytes :]


def test_what_no_peer_can_mean_is_not_sane() -> None:
    assert not LogTail(-1, 3, "abcd").is_sane
    assert not LogTail(4, 3, "").is_sane
    assert not LogTail(0, 9000, "\u20ac" * TAIL_BYTES_MAX).is_sane


def test_tails_travel_as_they_are_and_may_be_absent() -> None:
    tail = LogTail(3, 9, "gr\u00fc\u00df\n")
    run = RunProgress(RunId("de-1.1.1"), RunState.RUNNING, Reason.EXECUTING, tail=tail)
    mute = RunProgress(RunId("de-2.1.1"), RunState.RUNNING, Reason.EXECUTING)
    renewal = Renewal(SiteId("de"), "i", (run, mute))
    message = to_proto(renewal, site_pb2.RenewRequest)
    assert [each.HasField("tail") for each in message.runs] == [True, False]
    wire = site_pb2.RenewRequest.FromString(message.SerializeToString())
    assert from_proto(wire, Renewal) == renewal
    answer = RenewalAnswer({run.run_id: Verdict.CONTINUE}, {run.run_id: 9})
    assert from_proto(to_proto(answer, site_pb2.RenewResponse), RenewalAnswer) == answer
    event = TaskEvent(1.0, "lease_expired", "", tail=HeardTail(run.run_id, SiteId("de"), 0.5, tail))
    assert from_proto(to_proto(event, tasks_pb2.TaskEvent), TaskEvent) == event
