"""The last lines of a run's output, which travel with its renewals. Pure.

A site that dies in mid-run sends no report, and its disk is out of reach: what its runs last said
is then only known from what they had sent before.
"""

from dataclasses import dataclass

from gcos.ids import RunId, SiteId

#: Bytes of UTF-8 in one tail.
TAIL_BYTES_MAX = 2_048
#: Bytes of UTF-8 in all tails of one renewal.
RENEWAL_TAIL_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class LogTail:
    """The last lines of a run's output, as its site read them.

    Attributes:
        offset_bytes: Where they begin in the output of the run, bytes.
        end_bytes: Where they end: the length of the output then, bytes.
        text: At most `TAIL_BYTES_MAX` of UTF-8; bytes that are no text are replaced.
    """

    offset_bytes: int
    end_bytes: int
    text: str

    @property
    def is_sane(self) -> bool:
        """Tell whether a peer may have meant it."""
        is_placed = 0 <= self.offset_bytes <= self.end_bytes
        return is_placed and len(self.text.encode()) <= TAIL_BYTES_MAX


@dataclass(frozen=True, slots=True)
class HeardTail:
    """The newest tail of a run, as its origin keeps it.

    Attributes:
        run_id: The attempt that wrote it.
        site_id: Where that ran.
        heard_s: World instant at which the site was last heard of that run.
        tail: The lines.
    """

    run_id: RunId
    site_id: SiteId
    heard_s: float
    tail: LogTail


def tail_of(data: bytes, *, end_bytes: int) -> LogTail:
    """Return the tail that the last bytes of an output make.

    It begins with a whole line where one ends within `data`, else with a whole character.

    Args:
        data: The last bytes of the output, however many.
        end_bytes: Length of the output, bytes.
    """
    kept = data[-TAIL_BYTES_MAX:]
    is_cut = len(kept) < end_bytes
    line = kept.find(b"\n") + 1
    if is_cut and 0 < line < len(kept):
        kept = kept[line:]
    elif is_cut:
        kept = kept.lstrip(bytes(range(0x80, 0xC0)))  # what is left of a character
    text = kept.decode(errors="replace").replace("\0", "")
    # A replacement takes three bytes for one: the text is cut again, its place is not known better.
    text = text.encode()[-TAIL_BYTES_MAX:].decode(errors="ignore")
    return LogTail(offset_bytes=end_bytes - len(kept), end_bytes=end_bytes, text=text)
