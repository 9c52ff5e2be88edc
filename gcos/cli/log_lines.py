"""The output of runs as lines with their places, for programs. Pure."""

from dataclasses import dataclass, field

from gcos.client_records import LogPiece
from gcos.ids import RunId, SiteId

#: A longer line is told in parts.
LINE_BYTES_MAX = 64 * 1024
_NOBODY = RunId("")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of output.

    Attributes:
        run_id: The attempt that wrote it.
        offset_bytes: Where it begins in the output of that attempt.
        text: The line without its end; bytes that are no UTF-8 are replaced.
        heard_s: World instant at which its site was last heard of that attempt, where the site does
            not give the output and this is what it had told; None: read from the output itself.
        site_id: Where the attempt ran; None where the output itself was read.
    """

    run_id: RunId
    offset_bytes: int
    text: str
    heard_s: float | None = None
    site_id: SiteId | None = None


@dataclass(slots=True)
class LineReader:
    """Makes lines of the pieces of an output, in which lines begin and end anywhere."""

    _rest: bytearray = field(default_factory=bytearray)
    _run_id: RunId = _NOBODY
    _offset_bytes: int = 0
    _heard_s: float | None = None
    _site_id: SiteId | None = None

    def take(self, piece: LogPiece) -> list[LogLine]:
        """Return the lines that are whole now; another attempt ends the line of the one before."""
        lines = []
        is_next = piece.run_id == self._run_id and piece.offset_bytes == self._end_bytes
        if not is_next or piece.heard_s != self._heard_s:
            lines = self.end()
            self._run_id, self._offset_bytes = piece.run_id, piece.offset_bytes
            self._heard_s, self._site_id = piece.heard_s, piece.site_id
        self._rest += piece.data
        while (end := self._rest.find(b"\n", 0, LINE_BYTES_MAX)) >= 0:
            lines.append(self._cut(end, gap=1))
        while len(self._rest) >= LINE_BYTES_MAX:
            lines.append(self._cut(LINE_BYTES_MAX, gap=0))
        return lines

    def end(self) -> list[LogLine]:
        """Return what is left as a line, if anything is."""
        return [self._cut(len(self._rest), gap=0)] if self._rest else []

    @property
    def _end_bytes(self) -> int:
        return self._offset_bytes + len(self._rest)

    def _cut(self, length: int, *, gap: int) -> LogLine:
        text = self._rest[:length].decode(errors="replace")
        line = LogLine(self._run_id, self._offset_bytes, text, self._heard_s, self._site_id)
        del self._rest[: length + gap]
        self._offset_bytes += length + gap
        return line
