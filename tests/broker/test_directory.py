"""What references mean, as holdings come and go."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.directory import Directory, Finding
from gcos.artifacts import Artifact, ArtifactKind, Reference
from gcos.ids import ArtifactId, SiteId

A, B = SiteId("a"), SiteId("b")


def content(digit: str) -> ArtifactId:
    return ArtifactId("sha256:" + digit * 64)


def artifact(name: str, digit: str = "0", size_bytes: int = 100) -> Artifact:
    return Artifact(content(digit), ArtifactKind.MODEL, name, size_bytes)


def directory(**holdings: tuple[Artifact, ...]) -> Directory:
    made = Directory()
    for site_id, held in holdings.items():
        made.update(SiteId(site_id), held)
    made.check_invariants()
    return made


def holders(finding: Finding) -> list[SiteId]:
    assert finding.entry is not None
    return sorted(finding.entry.names)


def test_a_name_means_the_one_content_that_goes_by_it() -> None:
    made = directory(a=(artifact("tiny"),), b=(artifact("tiny"), artifact("other", "1")))
    finding = made.find(Reference("tiny"))
    assert holders(finding) == [A, B]
    assert finding.entry is not None
    assert finding.entry.artifact_id == content("0")


def test_a_name_of_two_contents_is_ambiguous_until_one_is_gone() -> None:
    made = directory(a=(artifact("tiny", "1"),), b=(artifact("tiny", "0"),))
    assert made.find(Reference("tiny")) == Finding(ambiguous_ids=(content("0"), content("1")))
    made.drop(B)
    assert holders(made.find(Reference("tiny"))) == [A]
    made.check_invariants()


def test_an_id_decides_whatever_the_name() -> None:
    made = directory(a=(artifact("tiny", "1"),), b=(artifact("tiny", "0"),))
    assert holders(made.find(Reference("tiny", content("1")))) == [A]
    assert holders(made.find(Reference("renamed", content("0")))) == [B]


def test_an_unknown_id_under_a_known_name_is_not_the_content_of_that_name() -> None:
    assert directory(a=(artifact("tiny"),)).find(Reference("tiny", content("9"))) == Finding()


def test_one_content_may_have_two_names() -> None:
    made = directory(a=(artifact("tiny"),), b=(artifact("small"),))
    assert made.find(Reference("tiny")).entry is made.find(Reference("small")).entry
    entry = made.get(content("0"))
    assert entry is not None
    assert entry.name == "small"


def test_a_renamed_copy_is_found_by_its_new_name_only() -> None:
    made = directory(a=(artifact("tiny"),))
    made.update(A, (artifact("small"),))
    assert made.find(Reference("tiny")).entry is None
    assert holders(made.find(Reference("small"))) == [A]
    made.check_invariants()


def test_a_content_told_twice_in_one_digest_counts_once() -> None:
    made = directory(a=(artifact("tiny"), artifact("small")))
    made.drop(A)
    made.check_invariants()
    assert made.get(content("0")) is None


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("tiny-lm", ("org/tiny-lm-1m", "tiny-lm-1m")),
        ("tiny-lm-1n", ("tiny-lm-1m", "org/tiny-lm-1m")),
        ("TINY-LM-1M", ("org/tiny-lm-1m", "tiny-lm-1m")),
        ("squadd", ("squad",)),
        ("nothing-like-it-at-all", ()),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(asked: str, nearest: tuple[str, ...]) -> None:
    made = directory(
        a=(artifact("tiny-lm-1m", "0"), artifact("org/tiny-lm-1m", "1"), artifact("squad", "2"))
    )
    assert made.find(Reference(asked)) == Finding(nearest=nearest)


def test_at_most_three_names_are_offered() -> None:
    made = directory(a=tuple(artifact(f"model-{digit}", digit) for digit in "0123456789"))
    assert len(made.find(Reference("model")).nearest) == 3


HOLDINGS = st.lists(
    st.builds(artifact, st.sampled_from(["x", "y", "z"]), st.sampled_from("012")), max_size=5
).map(tuple)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B]), st.none() | HOLDINGS), max_size=12))
def test_only_the_latest_holdings_matter(
    changes: list[tuple[SiteId, tuple[Artifact, ...] | None]],
) -> None:
    """The directory after any history answers as one that was told the end alone."""
    made = Directory()
    latest: dict[SiteId, tuple[Artifact, ...]] = {}
    for site_id, held in changes:
        if held is None:
            made.drop(site_id)
            latest.pop(site_id, None)
        else:
            made.update(site_id, held)
            latest[site_id] = held
        made.check_invariants()
    fresh = Directory()
    for site_id, held in sorted(latest.items()):
        fresh.update(site_id, held)
    for name in "xyz":
        found, expected = made.find(Reference(name)), fresh.find(Reference(name))
        assert found.ambiguous_ids == expected.ambiguous_ids
        assert (found.entry and found.entry.names) == (expected.entry and expected.entry.names)
