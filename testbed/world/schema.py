"""The tables that describe a world: their columns, units and limits, and the names others use.

`README.md` beside this file is the same for people. A file is a table by its columns: it is enough
that they have our names or the other names listed here.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gcos.accounting import BYTES_PER_GB
from gcos.signals import HOUR_S


class Kind(Enum):
    """What the cells of a column are, and the array that holds them."""

    #: (n,) object of str, or None in cells that may be empty.
    TEXT = "text"
    #: (n,) int64, whole UTC hours since the epoch.
    HOUR = "start of a UTC hour"
    #: (n,) float64, finite; NaN where the cell is empty.
    NUMBER = "number"
    #: (n,) float64, whole, for the same reason.
    COUNT = "whole number"
    #: (n,) bool; an empty cell is False.
    FLAG = "true or false"
    #: (n,) float64, seconds since the first row of the file.
    ELAPSED = "seconds since the first row"


class Default(Enum):
    """A text that stands for an absent column."""

    #: Stem of the file without `jobs_`.
    FILE_STEM = "file"
    #: Row of the file.
    ROW = "row"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: Our name, which ends in the unit.
        kind: What its cells are.
        about: What it says.
        other_names: Names under which public tables have it, and the factor to our unit.
        clock_name: Name of a column of clock times that may stand for it.
        least: Smallest legal value.
        most: Largest legal value.
        is_required: A table without it is refused.
        may_be_empty: Empty cells are legal.
        default: Value of every row where the file lacks the column; empty where there is none.
    """

    name: str
    kind: Kind
    about: str
    other_names: Mapping[str, float] | None = None
    clock_name: str = ""
    least: float | None = None
    most: float | None = None
    is_required: bool = True
    may_be_empty: bool = False
    default: float | Default | None = None

    def found_in(self, names: Collection[str]) -> tuple[str, float, Kind] | None:
        """Return the column of a file that is this one, its factor to our unit and its kind."""
        for name, factor in {self.name: 1.0, **(self.other_names or {})}.items():
            if name in names:
                return name, factor, self.kind
        if self.clock_name and self.clock_name in names:
            return self.clock_name, 1.0, Kind.ELAPSED
        return None


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table.

    Attributes:
        name: Stem of its file.
        about: What a row is.
        columns: Its columns in order.
        key: Columns that tell rows apart.
        order: Columns by which rows are sorted; those of the key where none are given.
        signs: A file that has all columns of one of these sets is this table, or means to be.
        value_like: Of an hourly table: so is a file with a time and a column that is called so.
        not_with: Columns that tell that it is another table after all.
        one_of: At least one of these columns must be there, and not empty in each row.
        stems: Names of files that are this table whatever their columns say.
        wrong_unit_hint: What to do where a value is there but in no unit of ours.
        repeats_first: A second row of the same key is left out; else it is refused.
    """

    name: str
    about: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    order: tuple[str, ...] = ()
    signs: tuple[frozenset[str], ...] = ()
    value_like: re.Pattern[str] | None = None
    not_with: frozenset[str] = frozenset()
    one_of: tuple[str, ...] = ()
    stems: frozenset[str] = frozenset()
    wrong_unit_hint: str = ""
    repeats_first: bool = False

    @property
    def is_hourly(self) -> bool:
        """Rows are hours of zones."""
        return self.key == ("zone", "time_utc")

    def column(self, name: str) -> Column:
        """Return the column of that name."""
        return next(column for column in self.columns if column.name == name)

    def is_told_by(self, stem: str, names: Collection[str]) -> bool:
        """Tell whether a file of that stem and those columns is this table."""
        if stem in self.stems:
            return True
        present = frozenset(names)
        if not present.isdisjoint(self.not_with):
            return False
        if not present.isdisjoint({"time_utc", "time"}) and self.values_in(names):
            return True
        return any(sign <= present for sign in self.signs)

    def values_in(self, names: Collection[str]) -> list[str]:
        """Return the columns that seem to hold what this hourly table is about."""
        like = self.value_like
        return [] if like is None else [name for name in names if like.fullmatch(name)]


_ZONE: Final = Column("zone", Kind.TEXT, "electricity zone, such as `DE`")
_HOUR: Final = Column(
    "time_utc", Kind.HOUR, "start of the hour, with its offset from UTC", {"time": 1.0}
)
_NAME: Final = Column(
    "name", Kind.TEXT, "what it is called; a row without it is left out", may_be_empty=True
)
_SIZE: Final = Column(
    "size_bytes",
    Kind.COUNT,
    "bytes on disk; a row without it is left out",
    {"size_gb": BYTES_PER_GB},
    least=1,
    may_be_empty=True,
)

CARBON: Final = TableSchema(
    name="carbon",
    about="average carbon intensity of a zone in an hour",
    columns=(
        _ZONE,
        _HOUR,
        Column(
            "lifecycle_gco2_per_kwh",
            Kind.NUMBER,
            "life-cycle intensity, gCO2eq/kWh",
            {"ci_lifecycle": 1.0},
            least=0.0,
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "direct_gco2_per_kwh",
            Kind.NUMBER,
            "intensity of what the plants themselves emit, gCO2eq/kWh",
            {"ci_direct": 1.0},
            least=0.0,
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "is_estimated",
            Kind.FLAG,
            "the source marks the hour as a model's estimate",
            {"estimated": 1.0},
            is_required=False,
            may_be_empty=True,
            default=0.0,
        ),
    ),
    key=("zone", "time_utc"),
    value_like=re.compile(r"ci_(direct|lifecycle)|carbon.*|.*gco2.*_per_kwh"),
    # Generation by fuel: its intensity is that of production, not of what is consumed in the zone.
    not_with=frozenset({"origin"}),
    one_of=("lifecycle_gco2_per_kwh", "direct_gco2_per_kwh"),
    stems=frozenset({"carbon", "carbon_intensity"}),
    wrong_unit_hint="name the factor: lifecycle_gco2_per_kwh or direct_gco2_per_kwh",
)

PRICE: Final = TableSchema(
    name="price",
    about="wholesale price of electricity in a zone and an hour",
    columns=(
        _ZONE,
        _HOUR,
        Column(
            "price_usd_per_mwh",
            Kind.NUMBER,
            "price in US dollars a MWh, not clipped; may be negative",
            {"price_usd_per_kwh": 1000.0},
        ),
        Column(
            "currency",
            Kind.TEXT,
            "currency of the market, from which the price was converted, such as `AUD`",
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "kind",
            Kind.TEXT,
            "day-ahead, real-time, marginal-cost, tariff, ...",
            is_required=False,
            may_be_empty=True,
        ),
    ),
    key=("zone", "time_utc"),
    value_like=re.compile(r"price.*|[a-z]{3}_per_[km]wh"),
    stems=frozenset({"price", "electricity_price"}),
    wrong_unit_hint="convert it and call it price_usd_per_mwh: nothing else is read as dollars",
)

NETWORK: Final = TableSchema(
    name="network",
    about="the directed link between two zones; an empty cell: nobody measured it",
    columns=(
        Column("src_zone", Kind.TEXT, "zone that sends"),
        Column("dst_zone", Kind.TEXT, "zone that receives"),
        Column(
            "rtt_ms",
            Kind.NUMBER,
            "round-trip time, ms",
            {"rtt_avg_ms": 1.0},
            least=0.0,
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "gbps",
            Kind.NUMBER,
            "rate of a bulk transfer, 1e9 bits per second",
            {"throughput_gbps": 1.0},
            least=1e-6,
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "egress_usd_per_gb",
            Kind.NUMBER,
            "list price of leaving src_zone, $ per 1e9 bytes",
            least=0.0,
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "jitter_ms",
            Kind.NUMBER,
            "half the width of the uniform spread of the one-way delay, ms; empty: none",
            least=0.0,
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "loss_ratio",
            Kind.NUMBER,
            "share of packets that are lost; empty: none",
            least=0.0,
            most=0.5,
            is_required=False,
            may_be_empty=True,
        ),
    ),
    key=("src_zone", "dst_zone"),
    signs=(frozenset({"src_zone"}), frozenset({"dst_zone"})),
)

ZONES: Final = TableSchema(
    name="zones",
    about="where a zone is",
    columns=(
        _ZONE,
        Column(
            "continent", Kind.TEXT, "AF, AS, EU, NA (North America), OC or SA", may_be_empty=True
        ),
        Column("lat", Kind.NUMBER, "latitude of its usual data-center town, degrees", least=-90.0),
        Column("lon", Kind.NUMBER, "longitude, degrees", least=-180.0),
        Column(
            "country",
            Kind.TEXT,
            "ISO code; tells the continent where that cell is empty",
            is_required=False,
            may_be_empty=True,
        ),
    ),
    key=("zone",),
    signs=(frozenset({"zone", "continent", "lat", "lon"}),),
)

MODELS: Final = TableSchema(
    name="models",
    about="a language model that can be fetched",
    columns=(
        _NAME,
        Column(
            "parameters_b",
            Kind.NUMBER,
            "parameters, 1e9; empty: not stated",
            least=0.0,
            may_be_empty=True,
        ),
        _SIZE,
    ),
    key=("name",),
    signs=tuple(frozenset({"name", "parameters_b", size}) for size in ("size_bytes", "size_gb")),
    repeats_first=True,
)

DATA_SETS: Final = TableSchema(
    name="data_sets",
    about="a data set that can be fetched",
    columns=(
        _NAME,
        _SIZE,
        Column("url", Kind.TEXT, "where it is", is_required=False, may_be_empty=True),
    ),
    key=("name",),
    signs=tuple(frozenset({"name", "url", size}) for size in ("size_bytes", "size_gb")),
    not_with=frozenset({"parameters_b"}),
    stems=frozenset({"data_sets"}),
    repeats_first=True,
)

JOBS: Final = TableSchema(
    name="jobs",
    about="a job that a cluster ran",
    columns=(
        Column(
            "log",
            Kind.TEXT,
            "name of the log; logs are never mixed; the file's name where the column is absent",
            is_required=False,
            default=Default.FILE_STEM,
        ),
        Column(
            "job_id",
            Kind.TEXT,
            "unique in its log; the row's number where the column is absent",
            is_required=False,
            default=Default.ROW,
        ),
        Column(
            "submit_s",
            Kind.NUMBER,
            "submission, seconds since the begin of the log",
            {"arrival_s": 1.0, "arrival_h": HOUR_S},
            clock_name="submit_time",
            least=0.0,
        ),
        Column(
            "duration_s",
            Kind.NUMBER,
            "how long it ran there, seconds",
            {"length_h": HOUR_S},
            least=0.0,
        ),
        Column(
            "gpus",
            Kind.COUNT,
            "GPUs that it held; 1 where the column is absent",
            {"num_gpus": 1.0},
            least=1,
            is_required=False,
            default=1.0,
        ),
        Column("model", Kind.TEXT, "name of its model", is_required=False, may_be_empty=True),
        Column("data_set", Kind.TEXT, "name of its data set", is_required=False, may_be_empty=True),
        Column(
            "origin_zone",
            Kind.TEXT,
            "zone in which it was submitted",
            is_required=False,
            may_be_empty=True,
        ),
        Column(
            "deadline_s",
            Kind.NUMBER,
            "deadline, seconds since the begin of the log",
            is_required=False,
            may_be_empty=True,
        ),
    ),
    key=("log", "job_id"),
    order=("log", "submit_s", "job_id"),
    signs=tuple(
        frozenset({submit, duration})
        for submit in ("submit_s", "arrival_s", "arrival_h", "submit_time")
        for duration in ("duration_s", "length_h")
    ),
    stems=frozenset({"jobs"}),
)

TABLES: Final = (CARBON, PRICE, NETWORK, ZONES, MODELS, DATA_SETS, JOBS)
