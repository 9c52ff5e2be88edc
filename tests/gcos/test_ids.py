import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.ids import Fence, SiteId, is_site_id, origin_of, run_id, task_id
from gcos.system import unique_text

SITES = st.from_regex(re.compile(r"[a-z][a-z0-9]{0,23}"), fullmatch=True).map(SiteId)
FENCES = st.builds(Fence, st.integers(1, 9), st.integers(0, 9))


@given(site=SITES)
def test_a_task_id_names_its_origin(site: SiteId) -> None:
    assert is_site_id(site)
    assert origin_of(task_id(site, "0123456789abc")) == site


@given(site=SITES, fence=FENCES, other=FENCES)
def test_each_attempt_has_its_own_run_id(site: SiteId, fence: Fence, other: Fence) -> None:
    task = task_id(site, "0123456789abc")
    assert (run_id(task, fence) == run_id(task, other)) is (fence == other)
    assert run_id(task, fence).split(".", 1)[0] == task


@given(a=FENCES, b=FENCES)
def test_fences_are_compared_by_epoch_and_then_by_attempt(a: Fence, b: Fence) -> None:
    as_pairs = (a.origin_epoch, a.attempt) < (b.origin_epoch, b.attempt)
    assert (a < b) is as_pairs
    assert a < a.next_attempt()


def test_an_adopted_task_beats_every_attempt_of_the_lost_origin() -> None:
    assert Fence(1, 999) < Fence(2, 0)


@pytest.mark.parametrize("text", ["", "Paris", "a-b", "a.b", "1a", "a" * 25, "a\n", "ä", "a/b"])
def test_a_site_id_is_free_of_what_separates_longer_ids(text: str) -> None:
    assert not is_site_id(text)


def test_unique_text_fits_into_ids() -> None:
    texts = {unique_text() for _ in range(100)}
    assert len(texts) == 100
    assert all(re.fullmatch(r"[0-9a-hjkmnp-tv-z]{13}", text) for text in texts)
