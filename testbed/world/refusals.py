"""Why a table, a zone or a week is refused."""

from datetime import UTC, datetime

from gcos.errors import InvalidRequestError, NotFoundError
from gcos.signals import HOUR_S


def hour_text(hour: int) -> str:
    """Return a whole UTC hour since the epoch as people read it, such as 2023-07-02T12:00Z."""
    return datetime.fromtimestamp(hour * HOUR_S, UTC).strftime("%Y-%m-%dT%H:%MZ")


class BadTableError(InvalidRequestError):
    """A file does not say what its schema asks for.

    Attributes:
        file: Name of the file.
        column: Column as the file calls it; empty where none is to blame.
        row: Row as a person counts it: of a CSV file from 1 with the header, of a Parquet file
            from 1; 0 where no row is to blame.
    """

    reason = "BAD_TABLE"

    def __init__(
        self, file: str, what: str, *, column: str = "", row: int = 0, hint: str = ""
    ) -> None:
        where = [file]
        if column:
            where.append(f"column {column}")
        if row:
            where.append(f"row {row}")
        super().__init__(f"{', '.join(where)}: {what}", field=column, hint=hint)
        self.file = file
        self.column = column
        self.row = row


class NotCoveredError(NotFoundError):
    """A directory has the table, but not the zone or not all hours that were asked for."""

    reason = "NOT_COVERED"


class GapError(NotFoundError):
    """More hours in a row are missing than may be interpolated.

    Attributes:
        zone: Electricity zone.
        first_missing_s: Begin of the first hour that is missing, seconds since the epoch.
        gap_hours: How many hours in a row are missing.
    """

    reason = "GAP"

    def __init__(
        self, source: str, zone: str, *, first_missing_hour: int, gap_hours: int, gap_hours_max: int
    ) -> None:
        super().__init__(
            f"{source}: {zone} misses {gap_hours} h from {hour_text(first_missing_hour)} on",
            hint=f"up to {gap_hours_max} h are interpolated; choose another week",
        )
        self.zone = zone
        self.first_missing_s = first_missing_hour * HOUR_S
        self.gap_hours = gap_hours
