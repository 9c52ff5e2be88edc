"""The wire keeps its promises: names, comments, units, and records that fit their messages."""

import dataclasses
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message_factory import GetMessageClass

import gcos.v1
from gcos import contract_net, known_sites
from gcos.rpc.wire import check_pair
from site_agent import cache, handoff

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted((ROOT / "proto" / "gcos" / "v1").glob("*.proto"))

#: How the name of a numeric field may end: the unit, or that it is a count or a ratio.
UNITS = re.compile(
    r"_(s|h|bytes|usd|gco2|kwh|kw|count|ratio"
    r"|usd_per_kg|usd_per_gb|usd_per_kwh|gco2_per_kwh|kwh_per_gb)$"
)

#: Numeric fields without a unit in their names, and why.
DIMENSIONLESS = {
    "Fence.origin_epoch": "an ordinal",
    "Fence.attempt": "an ordinal",
    "TaskEvent.attempt": "an ordinal",
    "TaskSpec.priority": "a rank",
    "Announcement.priority": "a rank",
    "Award.priority": "a rank",
    "Bid.late_probability": "a probability",
    "Site.pue": "a ratio that everybody calls by this name",
    "Report.exit_code": "a number that is only compared",
    "LedgerEntry.fetched": "bytes by the kind that is the key",
    "CustodyOffer.epoch": "an ordinal",
    "TakeCustodyResponse.epoch": "an ordinal",
    "HourlySignal.values": "their unit is the field beside them",
}

#: Messages that carry no record of the kernel, and why.
WIRE_ONLY = {
    "AnnounceAnswer": "a bid or a refusal",
    "Problem": "an error",
    "WorkPredictions": "a list, for a list of lists",
    "Scales": "shown to clients, never kept",
    "HourlySignal": "a series as clients draw it",
}

#: Records that go by another name than their message.
RENAMED = {
    "AwardResponse": contract_net.AwardAnswer,
    "RenewRequest": contract_net.Renewal,
    "RenewResponse": contract_net.RenewalAnswer,
    "ReportResponse": contract_net.ReportAnswer,
    "NominateRequest": known_sites.NominationQuery,
    "NominateResponse": known_sites.Nomination,
    "TakeCustodyResponse": handoff.CustodyAnswer,
}

RECORD_MODULES = (
    *(f"gcos.{name}" for name in ("accounting", "artifacts", "contract_net", "durations", "ids")),
    *(f"gcos.{name}" for name in ("known_sites", "ledger", "outlook", "signals", "sites")),
    "gcos.actor_status",
    "gcos.copy_events",
    "gcos.task_events",
    "gcos.task_record",
    "gcos.tasks",
    cache.__name__,
    handoff.__name__,
)


def files() -> list[FileDescriptor]:
    names = [module.name for module in pkgutil.iter_modules(gcos.v1.__path__)]
    modules = [importlib.import_module(f"gcos.v1.{n}") for n in names if n.endswith("_pb2")]
    assert len(modules) == len(PROTOS)
    return [module.DESCRIPTOR for module in modules]


def messages() -> list[Descriptor]:
    return [message for file in files() for message in file.message_types_by_name.values()]


def enums() -> list[EnumDescriptor]:
    return [enum for file in files() for enum in file.enum_types_by_name.values()]


def numeric_fields() -> Iterator[str]:
    numbers = {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
        FieldDescriptor.CPPTYPE_FLOAT,
        FieldDescriptor.CPPTYPE_DOUBLE,
    }
    for message in messages():
        for field in message.fields:
            entry = field.message_type
            is_map = entry is not None and entry.GetOptions().map_entry
            shown = entry.fields_by_name["value"] if is_map else field
            if shown.cpp_type in numbers:
                yield f"{message.name}.{field.name}"


def test_services_end_in_service() -> None:
    names = [name for file in files() for name in file.services_by_name]
    assert names
    assert [name for name in names if not name.endswith("Service")] == []


def test_every_rpc_has_a_request_and_a_response_of_its_own() -> None:
    methods = [
        method
        for file in files()
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    for method in methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
    assert len({method.name for method in methods}) == len(methods)


def uncommented(source: str) -> Iterator[str]:
    """Yield each declaration that no comment line stands above."""
    declaration = re.compile(r"(service|rpc|message|enum)\s+\w+|[\w.<>, ]+\s=\s\d+\s*;|\w+ = \d+;")
    previous = ""
    for line in (raw.strip() for raw in source.splitlines()):
        if declaration.match(line) and not previous.startswith("//"):
            yield line
        previous = line


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.name)
def test_every_declaration_has_a_comment(path: Path) -> None:
    assert list(uncommented(path.read_text())) == []


def test_the_check_for_comments_sees_what_lacks_one() -> None:
    source = "message A {\n  optional double b_s = 1;\n  // Fine.\n  map<string, int64> c = 2;\n}\n"
    assert list(uncommented(source)) == ["message A {", "optional double b_s = 1;"]


def test_every_number_has_its_unit_in_its_name() -> None:
    without = {name for name in numeric_fields() if not UNITS.search(name)}
    assert without == set(DIMENSIONLESS)


def test_number_zero_of_every_enum_is_unspecified() -> None:
    for enum in enums():
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


def test_every_message_that_is_no_envelope_fits_its_record() -> None:
    modules = [importlib.import_module(name) for name in RECORD_MODULES]
    known = {name: value for module in modules for name, value in vars(module).items()}
    records = {name: value for name, value in known.items() if dataclasses.is_dataclass(value)}
    records.update(RENAMED)
    checked = set()
    for message in messages():
        if message.name in records:
            check_pair(records[message.name], GetMessageClass(message))
            checked.add(message.name)
    bare = {m.name for m in messages() if not m.name.endswith(("Request", "Response"))}
    assert bare - checked == set(WIRE_ONLY)
    assert set(RENAMED) <= checked


def test_the_generated_code_is_that_of_the_sources() -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed: the test extra brings it")
    done = subprocess.run(
        [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
