"""How steps of negotiations are read from a log and set beside their limits."""

import json
from pathlib import Path

import pytest

from gcos.errors import WrongStateError
from gcos.ids import TaskId
from testbed.wan.negotiation import _logged, _reading, _Round, fdatasync_s


def line(task_id: str, **steps: float) -> str:
    return json.dumps({"event": "award_accepted", "task_id": task_id, "site_id": "sg", **steps})


def test_steps_are_read_and_set_beside_their_own_round(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text(
        "\n".join(
            [
                '{"event": "task_awarded", "task_id": "a"}',
                line("a", prepare_s=0.1, announce_s=0.081, judge_s=0.003, award_s=0.084),
                line("b", prepare_s=0.1, announce_s=0.091, judge_s=0.013, award_s=0.084),
                line("c", prepare_s=0.1, announce_s=0.082, judge_s=0.004, award_s=0.085),
            ]
        )
    )
    rounds = [
        _Round(0.08, 0.081, 0.1, 0.002, 0.0025, 0.30, TaskId("a")),
        _Round(0.09, 0.092, 0.1, 0.002, 0.0040, 0.31, TaskId("b")),
        _Round(0.08, 0.083, 0.1, 0.003, 0.0032, 0.32, TaskId("c")),
    ]
    found = _reading(rounds, _logged(log), origin="de", winner="sg", asked_rtt_s=0.08)
    assert found.announce_s == 0.082
    assert found.p50_s == pytest.approx(0.171)
    # 2 RTT and 2 fdatasync: 164, 184 and 166 ms.
    assert found.limit_s == pytest.approx(0.166)
    assert found.over_s == pytest.approx(0.004)
    assert found.calls_over_s == pytest.approx(0.004)
    assert found.commits_over_s == pytest.approx(0.001)
    assert found.floor_over_s == pytest.approx(0.005)
    # The predictor, the broker and the third fdatasync: 266, 286 and 269 ms.
    assert found.outside_limit_s == pytest.approx(0.269)
    assert found.outside_over_s == pytest.approx(0.034)
    assert found.count == 3


def test_a_negotiation_that_was_not_logged_is_told(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text("")
    rounds = [_Round(0.08, 0.081, 0.1, 0.002, 0.0025, 0.30, TaskId("a"))]
    with pytest.raises(WrongStateError, match="0 of 1 awards"):
        _reading(rounds, _logged(log), origin="de", winner="sg", asked_rtt_s=0.08)


async def test_fdatasync_takes_time(tmp_path: Path) -> None:
    assert await fdatasync_s(tmp_path, rest_s=0.0) > 0
    assert list(tmp_path.iterdir()) == []
