"""Configuration from file, environment and options, and what its errors say."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from gcos.config import load
from gcos.errors import InvalidRequestError


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Limits:
    queue_count_max: int = 10
    window_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Config:
    address: str = "127.0.0.1:7700"
    token_file: Path | None = None
    limits: Limits = field(default_factory=Limits)
    peers: tuple[str, ...] = ()
    rooms: dict[str, Limits] = field(default_factory=dict)
    windows: tuple[Limits, ...] = ()
    colour: Colour = Colour.RED
    is_loud: bool = False

    def __post_init__(self) -> None:
        if not self.address:
            raise InvalidRequestError("must not be empty", field="address")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gcos.toml"
    path.write_text(text)
    return path


def test_defaults_need_no_source() -> None:
    assert load(Config, None, environ={}) == Config()


def test_options_beat_environment_beats_file(tmp_path: Path) -> None:
    path = written(tmp_path, 'address = "file"\npeers = ["file"]\n[limits]\nwindow_s = 1\n')
    config = load(
        Config,
        path,
        environ={"GCOS_ADDRESS": "environment", "GCOS_LIMITS__QUEUE_COUNT_MAX": "7"},
        overrides={"address": "option", "peers": None},
    )
    assert config.address == "option"
    assert config.peers == ("file",)
    assert config.limits == Limits(queue_count_max=7, window_s=1.0)


def test_environment_text_takes_the_type_of_its_field() -> None:
    config = load(
        Config,
        None,
        environ={
            "GCOS_TOKEN_FILE": "/run/token",
            "GCOS_PEERS": "a:1, b:2",
            "GCOS_IS_LOUD": "true",
            "GCOS_LIMITS__WINDOW_S": "0.25",
            "GCOS_ROOMS__BIG__QUEUE_COUNT_MAX": "3",
            "GCOS_COLOUR": "red",
        },
    )
    assert config.token_file == Path("/run/token")
    assert config.peers == ("a:1", "b:2")
    assert config.is_loud
    assert config.limits.window_s == 0.25
    assert config.rooms == {"big": Limits(queue_count_max=3)}


def test_a_list_variable_may_be_written_as_in_toml() -> None:
    environ = {"GCOS_PEERS": '["a,b"]', "GCOS_WINDOWS": "[{window_s = 2.0}]"}
    config = load(Config, None, environ=environ)
    assert config.peers == ("a,b",)
    assert config.windows == (Limits(window_s=2.0),)


def test_numbers_in_text_stay_text_where_text_is_asked_for() -> None:
    assert load(Config, None, environ={"GCOS_ADDRESS": "7700"}).address == "7700"


def test_an_option_may_be_a_path() -> None:
    assert load(Config, None, environ={}, overrides={"token_file": Path("t")}).token_file == Path(
        "t"
    )


def test_variables_of_other_processes_are_passed_over() -> None:
    assert load(Config, None, environ={"GCOS_SITE_ID": "a", "HOME": "/", "GCOS_X__Y": "1"})


@pytest.mark.parametrize(
    ("text", "field_name", "message"),
    [
        ("adress = 'x'", "adress", "did you mean 'address'"),
        ("[limits]\nqueue_max = 1", "limits.queue_max", "did you mean 'limits.queue_count_max'"),
        ("[rooms.a]\nwindow = 1", "rooms.a.window", "did you mean 'rooms.a.window_s'"),
        ("[[windows]]\nwindow = 1", "windows[0].window", "did you mean 'windows[0].window_s'"),
        ("[limits]\nwindow_s = 'x'", "limits.window_s", "expected `float`, got `str`"),
        ("[limits]\nqueue_count_max = '7'", "limits.queue_count_max", "expected `int`, got `str`"),
        ("limits = 3", "limits", "expected `object`, got `int`"),
        ("token_file = 3", "token_file", "got `int`"),
        ("colour = 'blue'", "colour", "blue"),
        ("address = ''", "address", "must not be empty"),
        ("address", "", "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_field(
    tmp_path: Path, text: str, field_name: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidRequestError) as caught:
        load(Config, path, environ={})
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.field == field_name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("GCOS_ADRESS", "x", "did you mean 'address'"),
        ("GCOS_LIMITS__NOTHING", "x", "'nothing' is no field"),
        ("GCOS_LIMITS__WINDOW_S", "soon", "expected `float`"),
        ("GCOS_ADDRESS__PORT", "1", "'port' is no field"),
        ("GCOS_PEERS", "[a", "expected `array`"),
    ],
)
def test_a_wrong_variable_is_refused_with_its_name(name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        load(Config, None, environ={name: text})
    assert name in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="options: 'addres' is no field"):
        load(Config, None, environ={}, overrides={"addres": 1})


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"nothing\.toml does not exist"):
        load(Config, tmp_path / "nothing.toml", environ={})


def test_a_table_variable_under_a_scalar_in_the_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "limits = 3")
    with pytest.raises(InvalidRequestError, match="limits is no table"):
        load(Config, path, environ={"GCOS_LIMITS__WINDOW_S": "1"})
