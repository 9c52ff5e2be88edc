"""Which correction of the copy plan a simulation takes."""

from pathlib import Path

import numpy as np
import pytest

from gcos.errors import InvalidRequestError
from policies.catalogue import POLICIES
from policies.maccs import actor as actor_module
from policies.maccs.artifact_features import FEATURE_COUNT
from policies.maccs.copy_plan import UNLEARNED
from policies.maccs.network import Weights, forward
from testbed.planner import learned


def test_policy_without_learned_parts_corrects_nothing() -> None:
    assert learned(POLICIES["plan"].learned) is UNLEARNED


def test_evaluation_refuses_an_actor_that_an_agent_would_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "SHIPPED", tmp_path)
    with pytest.raises(InvalidRequestError, match=r"artifact\.onnx: there is no such file"):
        learned(POLICIES["maccs"].learned)


def test_what_does_not_lie_in_a_directory_is_the_shipped_one(tmp_path: Path) -> None:
    """A part on trial is run beside the others as they ship."""
    parts = POLICIES["central"].learned
    found = learned(parts, directory=tmp_path, is_compiled=True)
    assert isinstance(found.actor, Weights)
    assert found.scale == learned(parts, is_compiled=True).scale > 0


def test_both_forms_of_the_shipped_actor_say_the_same() -> None:
    arrays = learned(("artifact",), is_compiled=True)
    file = learned(("artifact",), is_compiled=False, scales={"artifact": 0.5})
    assert isinstance(arrays.actor, Weights)
    assert not isinstance(file.actor, Weights)
    rows = np.random.default_rng(0).uniform(0, 6, size=(50, FEATURE_COUNT))
    np.testing.assert_allclose(file.actor(rows), forward(arrays.actor, rows), atol=1e-9)
    assert file.scale == 0.5
    assert arrays.is_asked
    assert file.is_asked
