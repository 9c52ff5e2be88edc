import enum
import math
from dataclasses import dataclass, field
from typing import NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.codec import decode, encode
from gcos.errors import GcosError, InvalidRequestError

SiteName = NewType("SiteName", str)


class Color(enum.Enum):
    GREEN = "green"
    GREY = "grey"


@dataclass(frozen=True, slots=True)
class Leaf:
    count: int
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    name: str
    site: SiteName
    color: Color
    leaf: Leaf
    blob: bytes = b""
    is_old: bool = False
    height: float = 0.0
    note: str | None = None
    leaves: tuple[Leaf, ...] = ()
    height_by_year: dict[str, float] = field(default_factory=dict)
    leaf_by_site: dict[SiteName, Leaf] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class YoungLeaf:
    """`Leaf` in a later version."""

    count: int
    shade: str = "light"
    colors: tuple[Color, ...] = (Color.GREEN,)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.builds(Leaf, count=st.integers(), cost_usd=st.none() | finite)
trees = st.builds(
    Tree,
    name=texts,
    site=texts.map(SiteName),
    leaf=leaves,
    height=finite,
    note=st.none() | texts,
    leaves=st.lists(leaves, max_size=3).map(tuple),
    height_by_year=st.dictionaries(texts, finite, max_size=3),
    leaf_by_site=st.dictionaries(texts.map(SiteName), leaves, max_size=3),
)


@given(trees)
def test_a_record_survives_storage(tree: Tree) -> None:
    assert decode(Tree, encode(tree)) == tree


def test_an_enum_is_stored_by_value() -> None:
    tree = Tree("a", site=SiteName("west"), color=Color.GREY, leaf=Leaf(1))
    assert b'"color":"grey"' in encode(tree)


def test_a_new_field_takes_its_default_and_a_dropped_one_is_ignored() -> None:
    assert decode(YoungLeaf, encode(Leaf(3, cost_usd=1.5))) == YoungLeaf(3)
    assert decode(Leaf, encode(YoungLeaf(3))) == Leaf(3)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        (b"", "truncated"),
        (b'{"count":', "truncated"),
        (b"\xff", "malformed"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `count`"),
        (b'{"count":"three"}', "\\$.count"),
    ],
)
def test_a_document_that_does_not_fit_names_the_class_and_the_place(
    document: bytes, place: str
) -> None:
    with pytest.raises(GcosError, match=f"stored Leaf cannot be read.*{place}"):
        decode(Leaf, document)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_would_read_back_as_another_is_refused(number: float) -> None:
    with pytest.raises(InvalidRequestError, match="does not survive"):
        encode(Leaf(1, cost_usd=number))
    tree = Tree("null", site=SiteName(""), color=Color.GREY, leaf=Leaf(1), height=number)
    with pytest.raises(InvalidRequestError, match="does not survive"):
        encode(tree)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="YoungLeaf has no JSON"):
        encode(YoungLeaf(1, shade="\ud800"))
