"""The compiled hash against the standard library's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.ids import SiteId, TaskId
from policies.baselines import rules
from policies.interface import SiteView
from testbed.fast.hashing import TEXT_BYTES_MAX, uniform

TEXT = st.text("abcdefghijklmnopqrstuvwxyz0123456789-é", min_size=1, max_size=30)


def padded(text: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    made = np.zeros(60, np.uint8)
    encoded = text.encode()
    made[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    return made


def drawn(task: str, site: str) -> float:
    view = SiteView(
        site_id=SiteId(site),
        task_id=TaskId(task),
        is_origin=False,
        backlog_s=0.0,
        awarded_count=0,
        now_s=0.0,
    )
    return rules.uniform(view)


@given(task=TEXT, site=TEXT)
def test_ties_are_broken_alike(task: str, site: str) -> None:
    assert uniform(padded(task), padded(site)) == drawn(task, site)


@pytest.mark.parametrize("length", [1, 7, 8, 63, TEXT_BYTES_MAX - 3])
def test_every_length_of_one_block(length: int) -> None:
    task = np.frombuffer(b"x" * length, np.uint8)
    assert uniform(task, padded("de")) == drawn("x" * length, "de")
