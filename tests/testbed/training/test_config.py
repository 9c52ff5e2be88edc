"""What training is told is checked before it begins."""

from pathlib import Path

import pytest

from gcos.config import load
from gcos.errors import InvalidRequestError
from testbed.training.commands import shipped_config
from testbed.training.config import TrainConfig
from testbed.training.parts import PARTS, part_named


def config(text: str, tmp_path: Path) -> TrainConfig:
    path = tmp_path / "train.toml"
    path.write_text(text)
    return load(TrainConfig, path, environ={})


@pytest.mark.parametrize("part", PARTS)
def test_shipped_configuration_is_one(part: str) -> None:
    assert load(TrainConfig, shipped_config(part), environ={}).part == part


@pytest.mark.parametrize(
    ("name", "hint"), [("centrall", "did you mean 'central'?"), ("mine", "ends in .toml")]
)
def test_a_configuration_that_is_not_shipped_is_told_which_are(name: str, hint: str) -> None:
    with pytest.raises(InvalidRequestError, match="there are artifact, task, central") as caught:
        shipped_config(name)
    assert caught.value.field == "config"
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("run_count = 0", "run_count"),
        ("first_seed = 17", "first_seed"),
        ('last_day = "2020-01-01"', "last_day"),
        ('last_day = "soon"', "last_day"),
        ('last_day = "2023-02-01"', "gate.first_day"),
        ("[gate]\nscales = [0.0]", "gate.scales"),
        ("[gate]\nscales = [0.7]", "gate.scales"),
        ("[gate]\nrun_count = 0", "gate.run_count"),
        ("[spread]\nload = [0.8, 0.3]", "spread.load"),
        ("[spread]\ncache_factor = [0.0, 1.0]", "spread.cache_factor"),
        ("[spread]\nplain_ratio = 1.5", "spread.plain_ratio"),
        ("[artifact]\nepoch_count = 0", "artifact.epoch_count"),
        ("[artifact]\nheld_out_ratio = 1.0", "artifact.held_out_ratio"),
        ("[artifact]\nlearning_rate = 0.0", "artifact.learning_rate"),
        ("[task]\nround_count = 0", "task.round_count"),
        ("[task]\nhidden = [32, 0]", "task.hidden"),
        ("[task]\nclip_ratio = 1.0", "task.clip_ratio"),
        ("[task]\nwinsor_ratio = 0.5", "task.winsor_ratio"),
        ("[task]\ntemperature = 0.0", "task.temperature"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(text: str, field: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        config(f'part = "artifact"\n{text}', tmp_path)
    assert field in str(caught.value)


def test_unknown_part_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        part_named("artefact")
    assert "artifact" in caught.value.hint
