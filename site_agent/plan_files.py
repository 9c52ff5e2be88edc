"""Keeps the latest plans of copies, one file each, so that they can be made again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gcos import codec
from site_agent.plan_record import PlanRecord

_SUFFIX: Final = ".json"


class PlanRecords:
    """The records in a directory.

    Args:
        directory: Where; made when it is needed.
        count_max: Records kept; the oldest go.
    """

    def __init__(self, directory: Path, count_max: int) -> None:
        self._directory = directory
        self._count_max = count_max

    def keep(self, record: PlanRecord) -> None:
        """Write a record, and remove the oldest of too many.

        Raises:
            OSError: It cannot be written.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / f"{record.at_s:015.0f}{_SUFFIX}"
        partial = path.with_suffix(".partial")
        partial.write_bytes(codec.encode(record))
        partial.replace(path)
        for old in self._paths()[: -self._count_max]:
            old.unlink(missing_ok=True)

    def read(self) -> Iterator[PlanRecord]:
        """Yield the records, oldest first.

        Raises:
            GcosError: One of them cannot be read.
        """
        for path in self._paths():
            yield codec.decode(PlanRecord, path.read_bytes())

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{_SUFFIX}"))
