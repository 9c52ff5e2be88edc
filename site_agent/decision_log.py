"""Writes an agent's decisions to a file, one line of JSON each, if its operator wants them."""

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from gcos import codec
from gcos.logs import Log
from gcos.task_record import Task
from policies.interface import Bidder
from site_agent.auction import Auction
from site_agent.decisions import Decision, RecordingBidder, award_decision

DECISIONS_NAME: Final = "decisions.jsonl"
#: Some 50,000 decisions; then recording ends, and the log says so.
RECORDING_BYTES_MAX: Final = 256 << 20
_BLOCK_BYTES: Final = 64 << 10


class DecisionLog:
    """A recording, which goes on where an earlier one of the same file ended.

    Lines go to the kernel at once and to the disk when it pleases: a recording is evidence, not a
    promise, and must not slow down what it records. A disk that is full ends the recording alone.
    """

    def __init__(self, path: Path, log: Log, *, bytes_max: int = RECORDING_BYTES_MAX) -> None:
        self._path = path
        self._log = log
        self._bytes_max = bytes_max
        self._written_bytes = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Open the file; what a process that died left of a line is cut off."""
        self._file = self._path.open("a+b", buffering=0)
        self._written_bytes = _whole_bytes(self._file)
        self._file.truncate(self._written_bytes)
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self._end()

    def bidder(self, policy: str, bidder: Bidder) -> Bidder:
        """Return a bidder whose choices under a policy are recorded."""
        return RecordingBidder(policy, bidder, self.write)

    def award(self, before: Task, after: Task, auction: Auction, at_s: float) -> None:
        """Add what became of an auction (`decisions.award_decision`)."""
        self.write(award_decision(before, after, auction, at_s))

    def write(self, decision: Decision) -> None:
        """Add a decision, unless the recording has ended."""
        if self._file is None:
            return
        line = codec.encode(decision) + b"\n"
        if self._written_bytes + len(line) > self._bytes_max:
            self._log.warning("decisions_full", path=str(self._path), bytes=self._written_bytes)
            self._end()
            return
        try:
            self._file.write(line)
        except OSError as exc:
            self._log.error("decisions_failed", path=str(self._path), error=str(exc))
            self._end()
            return
        self._written_bytes += len(line)

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _whole_bytes(file: BinaryIO) -> int:
    """Return where the last whole line of a file ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
