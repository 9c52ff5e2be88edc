import enum
import math
from dataclasses import dataclass, field, replace
from typing import Any, NewType

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from gcos.errors import InvalidRequestError
from gcos.rpc.wire import check_pair, from_proto, to_proto

SiteName = NewType("SiteName", str)
LongSiteName = NewType("LongSiteName", SiteName)


class TaskState(enum.Enum):
    QUEUED = "queued"
    RUNNING = "running"


class GPUKind(enum.Enum):
    H100 = "h100"


@dataclass(frozen=True, slots=True)
class Leaf:
    count: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclass(frozen=True, slots=True)
class Tree:
    text: str
    number: int
    ratio: float
    flag: bool
    blob: bytes
    site: LongSiteName
    state: TaskState
    leaf: Leaf
    empty: Empty
    text_or_none: SiteName | None = None
    number_or_none: int | None = None
    ratio_or_none: float | None = None
    flag_or_none: bool | None = None
    state_or_none: TaskState | None = None
    bare_state_or_none: TaskState | None = None
    leaf_or_none: Leaf | None = None
    texts: tuple[str, ...] = ()
    ratios: tuple[float, ...] = ()
    states: tuple[TaskState, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    ratio_by_name: dict[str, float] = field(default_factory=dict)
    text_by_site: dict[SiteName, str] = field(default_factory=dict)
    state_by_name: dict[str, TaskState] = field(default_factory=dict)
    leaf_by_name: dict[str, Leaf] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    trees: tuple[Tree, ...] = ()
    kind: GPUKind | None = None


F = FieldDescriptorProto
NUMBERS = {"UNSPECIFIED": 0, "QUEUED": 4, "RUNNING": 2}


def add_field(
    message: DescriptorProto, name: str, kind: "F.Type.ValueType", **options: Any
) -> FieldDescriptorProto:
    label = F.LABEL_REPEATED if options.pop("repeated", False) else F.LABEL_OPTIONAL
    number = len(message.field) + 1
    return message.field.add(name=name, number=number, type=kind, label=label, **options)


def add_optional(
    message: DescriptorProto, name: str, kind: "F.Type.ValueType", **options: Any
) -> None:
    message.oneof_decl.add(name=f"_{name}")
    index = len(message.oneof_decl) - 1
    add_field(message, name, kind, oneof_index=index, proto3_optional=True, **options)


def add_map(message: DescriptorProto, name: str, kind: "F.Type.ValueType", **options: Any) -> None:
    entry_name = name.title().replace("_", "") + "Entry"
    entry = message.nested_type.add(name=entry_name)
    entry.options.map_entry = True
    add_field(entry, "key", F.TYPE_STRING)
    add_field(entry, "value", kind, **options)
    type_name = f".test.{message.name}.{entry_name}"
    add_field(message, name, F.TYPE_MESSAGE, repeated=True, type_name=type_name)


def add_enum(file: FileDescriptorProto, name: str, numbers: dict[str, int]) -> EnumDescriptorProto:
    described = file.enum_type.add(name=name)
    for value, number in numbers.items():
        described.value.add(name=value, number=number)
    return described


def tree_descriptor(tree: DescriptorProto) -> None:
    state, leaf = ".test.TaskState", ".test.Leaf"
    for name, kind in (
        ("text", F.TYPE_STRING),
        ("number", F.TYPE_SINT64),
        ("ratio", F.TYPE_DOUBLE),
        ("flag", F.TYPE_BOOL),
        ("blob", F.TYPE_BYTES),
        ("site", F.TYPE_STRING),
    ):
        add_field(tree, name, kind)
    add_field(tree, "state", F.TYPE_ENUM, type_name=state)
    add_field(tree, "bare_state_or_none", F.TYPE_ENUM, type_name=state)
    add_field(tree, "leaf", F.TYPE_MESSAGE, type_name=leaf)
    add_field(tree, "leaf_or_none", F.TYPE_MESSAGE, type_name=leaf)
    add_field(tree, "empty", F.TYPE_MESSAGE, type_name=".test.Empty")
    add_field(tree, "texts", F.TYPE_STRING, repeated=True)
    add_field(tree, "ratios", F.TYPE_DOUBLE, repeated=True)
    add_field(tree, "states", F.TYPE_ENUM, repeated=True, type_name=state)
    add_field(tree, "leaves", F.TYPE_MESSAGE, repeated=True, type_name=leaf)
    add_map(tree, "ratio_by_name", F.TYPE_DOUBLE)
    add_map(tree, "text_by_site", F.TYPE_STRING)
    add_map(tree, "state_by_name", F.TYPE_ENUM, type_name=state)
    add_map(tree, "leaf_by_name", F.TYPE_MESSAGE, type_name=leaf)
    add_optional(tree, "text_or_none", F.TYPE_STRING)
    add_optional(tree, "number_or_none", F.TYPE_INT64)
    add_optional(tree, "ratio_or_none", F.TYPE_DOUBLE)
    add_optional(tree, "flag_or_none", F.TYPE_BOOL)
    add_optional(tree, "state_or_none", F.TYPE_ENUM, type_name=state)


def message_classes() -> dict[str, type[Message]]:
    file = FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    add_enum(file, "TaskState", {f"TASK_STATE_{name}": n for name, n in NUMBERS.items()})
    add_enum(file, "GPUKind", {"GPU_KIND_UNSPECIFIED": 0, "GPU_KIND_H100": 1})
    add_enum(file, "NoZero", {"NO_ZERO_H100": 0})
    leaf = file.message_type.add(name="Leaf")
    add_field(leaf, "count", F.TYPE_UINT32)
    add_field(leaf, "cost_usd", F.TYPE_DOUBLE)
    file.message_type.add(name="Empty")
    tree_descriptor(file.message_type.add(name="Tree"))
    forest = file.message_type.add(name="Forest")
    add_field(forest, "trees", F.TYPE_MESSAGE, repeated=True, type_name=".test.Tree")
    add_field(forest, "kind", F.TYPE_ENUM, type_name=".test.GPUKind")
    newer = file.message_type.add(name="NewerLeaf")
    newer.CopyFrom(leaf)
    newer.name = "NewerLeaf"
    add_field(newer, "color", F.TYPE_STRING)
    for name, kind, options in (
        ("OneText", F.TYPE_STRING, {}),
        ("OneDouble", F.TYPE_DOUBLE, {}),
        ("OneLeaf", F.TYPE_MESSAGE, {"type_name": ".test.Leaf"}),
        ("OneState", F.TYPE_ENUM, {"type_name": ".test.TaskState"}),
        ("OneNoZero", F.TYPE_ENUM, {"type_name": ".test.NoZero"}),
        ("ManyTexts", F.TYPE_STRING, {"repeated": True}),
    ):
        add_field(file.message_type.add(name=name), "it", kind, **options)
    add_map(file.message_type.add(name="TextMap"), "it", F.TYPE_STRING)
    add_optional(file.message_type.add(name="OptionalText"), "it", F.TYPE_STRING)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = [described.name for described in file.message_type]
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"test.{name}")) for name in names}


MESSAGES = message_classes()
TREE, FOREST = MESSAGES["Tree"], MESSAGES["Forest"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
int64s = st.integers(-(2**63), 2**63 - 1)
leaves = st.builds(Leaf, count=st.integers(0, 2**32 - 1), cost_usd=finite)
states = st.sampled_from(TaskState)
trees = st.builds(
    Tree,
    text=texts,
    number=int64s,
    ratio=finite,
    site=texts.map(SiteName).map(LongSiteName),
    leaf=leaves,
    text_or_none=st.none() | texts.map(SiteName),
    number_or_none=st.none() | int64s,
    ratio_or_none=st.none() | finite,
    leaf_or_none=st.none() | leaves,
    texts=st.lists(texts, max_size=3).map(tuple),
    ratios=st.lists(finite, max_size=3).map(tuple),
    states=st.lists(states, max_size=3).map(tuple),
    leaves=st.lists(leaves, max_size=3).map(tuple),
    ratio_by_name=st.dictionaries(texts, finite, max_size=3),
    text_by_site=st.dictionaries(texts.map(SiteName), texts, max_size=3),
    state_by_name=st.dictionaries(texts, states, max_size=3),
    leaf_by_name=st.dictionaries(texts, leaves, max_size=3),
)

SMALL = Tree(
    "a",
    number=-1,
    ratio=0.5,
    flag=True,
    blob=b"\x00\xff",
    site=LongSiteName(SiteName("west")),
    state=TaskState.QUEUED,
    leaf=Leaf(1, cost_usd=2.0),
    empty=Empty(),
)


def edited(record: object, message_class: type[Message], **fields: Any) -> Message:
    """Return the message of `record` with some fields replaced, as a faulty peer might send it."""
    message = to_proto(record, message_class)
    for name, value in fields.items():
        message.ClearField(name)
        message.MergeFrom(message_class(**{name: value}))
    return message


def refused_field(message: Message, record_class: type) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        from_proto(message, record_class)
    assert caught.value.field in str(caught.value)
    return caught.value.field


@given(st.lists(trees, max_size=2).map(tuple), st.none() | st.sampled_from(GPUKind))
def test_a_record_survives_the_wire(grown: tuple[Tree, ...], kind: GPUKind | None) -> None:
    record = Forest(trees=grown, kind=kind)
    wire = to_proto(record, FOREST).SerializeToString()
    message = FOREST()
    message.ParseFromString(wire)
    assert from_proto(message, Forest) == record


def test_an_enum_goes_by_name_not_by_order() -> None:
    message: Any = to_proto(SMALL, TREE)
    assert message.state == NUMBERS["QUEUED"]


def test_none_is_absence_and_an_empty_value_is_not() -> None:
    message = to_proto(SMALL, TREE)
    assert not message.HasField("text_or_none")
    assert not message.HasField("leaf_or_none")
    empty = to_proto(replace(SMALL, text_or_none=SiteName(""), number_or_none=0), TREE)
    assert empty.HasField("text_or_none")
    read = from_proto(empty, Tree)
    assert (read.text_or_none, read.number_or_none, read.flag_or_none) == ("", 0, None)


def test_number_zero_of_an_enum_reads_as_none_where_none_is_allowed() -> None:
    message = edited(SMALL, TREE, state_or_none=0, bare_state_or_none=0)
    read = from_proto(message, Tree)
    assert (read.state_or_none, read.bare_state_or_none) == (None, None)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"state": 0}, "state"),
        ({"state": 77}, "state"),
        ({"state_or_none": 77}, "state_or_none"),
        ({"bare_state_or_none": 77}, "bare_state_or_none"),
        ({"states": [2, 0]}, "states[1]"),
        ({"state_by_name": {"a": 4, "b": 77}}, "state_by_name['b']"),
    ],
)
def test_an_unset_or_unknown_enum_is_refused_by_name(fields: dict[str, Any], path: str) -> None:
    assert refused_field(edited(SMALL, TREE, **fields), Tree) == path


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "wrap", "path"),
    [
        ("ratio", lambda x: x, "ratio"),
        ("ratio_or_none", lambda x: x, "ratio_or_none"),
        ("ratios", lambda x: [1.0, x], "ratios[1]"),
        ("ratio_by_name", lambda x: {"a": 1.0, "b": x}, "ratio_by_name['b']"),
        ("leaf", lambda x: {"cost_usd": x}, "leaf.cost_usd"),
        ("leaves", lambda x: [{}, {}, {"cost_usd": x}], "leaves[2].cost_usd"),
        ("leaf_by_name", lambda x: {"a": {"cost_usd": x}}, "leaf_by_name['a'].cost_usd"),
    ],
)
def test_a_float_that_is_not_finite_is_refused_by_name(
    number: float, name: str, wrap: Any, path: str
) -> None:
    message = edited(SMALL, TREE, **{name: wrap(number)})
    assert refused_field(message, Tree) == path
    forest = FOREST(trees=[to_proto(SMALL, TREE), message])
    assert refused_field(forest, Forest) == f"trees[1].{path}"


def test_a_missing_message_is_refused_by_name() -> None:
    message = to_proto(SMALL, TREE)
    message.ClearField("leaf")
    assert refused_field(message, Tree) == "leaf"
    assert refused_field(FOREST(trees=[message]), Forest) == "trees[0].leaf"


def test_a_map_arrives_in_the_order_of_its_keys() -> None:
    scrambled = dict.fromkeys("hgfedcba", 1.0)
    read = from_proto(to_proto(replace(SMALL, ratio_by_name=scrambled), TREE), Tree)
    assert list(read.ratio_by_name) == sorted(scrambled)


def test_a_field_of_a_newer_peer_is_ignored() -> None:
    newer = MESSAGES["NewerLeaf"](count=3, cost_usd=1.5, color="green")
    message = MESSAGES["Leaf"]()
    message.ParseFromString(newer.SerializeToString())
    assert from_proto(message, Leaf) == Leaf(3, cost_usd=1.5)


@pytest.mark.parametrize(
    "record", [replace(SMALL, number=2**63), replace(SMALL, text="\ud800")], ids=["int", "text"]
)
def test_a_value_beyond_its_field_is_refused_when_sent(record: Tree) -> None:
    with pytest.raises(InvalidRequestError, match="Tree cannot be sent"):
        to_proto(record, TREE)


def test_a_matching_pair_passes_the_drift_check() -> None:
    check_pair(Tree, TREE)
    check_pair(Forest, FOREST)


@dataclass(frozen=True, slots=True)
class OneText:
    it: str


@dataclass(frozen=True, slots=True)
class OneMaybeText:
    it: str | None


@dataclass(frozen=True, slots=True)
class OneNumber:
    it: int


@dataclass(frozen=True, slots=True)
class OneUnion:
    it: str | int


@dataclass(frozen=True, slots=True)
class OneKind:
    it: GPUKind


@dataclass(frozen=True, slots=True)
class PairOfTexts:
    it: tuple[str, str]


@dataclass(frozen=True, slots=True)
class NumberMap:
    it: dict[int, str]


@pytest.mark.parametrize(
    ("record_class", "message_name", "said"),
    [
        (Leaf, "NewerLeaf", "only in the message \\['color'\\]"),
        (Tree, "Leaf", "only in the record \\['text'"),
        (str, "Leaf", "no dataclass"),
        (OneMaybeText, "OneText", "None needs an `optional` field"),
        (OneUnion, "OneText", "a union has no place"),
        (OneNumber, "OneText", "<class 'int'> in the record"),
        (OneNumber, "OneDouble", "<class 'int'> in the record"),
        (OneText, "OneLeaf", "a message on the wire"),
        (OneText, "OneState", "an enum on the wire"),
        (OneKind, "OneState", "TASK_STATE_H100"),
        (OneKind, "OneNoZero", "NO_ZERO_UNSPECIFIED the number 0"),
        (OneText, "ManyTexts", "repeated on the wire"),
        (PairOfTexts, "ManyTexts", "not tuple"),
        (OneText, "TextMap", "a map on the wire"),
        (NumberMap, "TextMap", "not dict"),
    ],
)
def test_a_pair_that_does_not_fit_fails_when_its_plan_is_built(
    record_class: type, message_name: str, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        check_pair(record_class, MESSAGES[message_name])


def test_a_required_field_must_be_present_where_the_wire_can_tell() -> None:
    assert refused_field(MESSAGES["OptionalText"](), OneText) == "it"
