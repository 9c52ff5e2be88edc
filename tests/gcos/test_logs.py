"""Where log events go and in which form."""

import json
import logging

import pytest
import structlog

from gcos.errors import InvalidRequestError
from gcos.logs import configure, get_logger


@pytest.fixture(autouse=True)
def _restored():  # type: ignore[no-untyped-def]
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


def test_off_a_terminal_each_event_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure("broker", "info")
    get_logger(site_id="a").info("site_joined", pool_count=2)
    get_logger().debug("unseen")
    logging.getLogger("library").warning("heard %s", "too")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["event"] == "site_joined"
    assert (first["process"], first["site_id"], first["pool_count"]) == ("broker", "a", 2)
    assert (second["event"], second["level"]) == ("heard too", "warning")


def test_a_traceback_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure("broker", "info")

    def failing(secret: str) -> None:
        raise ValueError("wrong" if secret else "")

    try:
        failing("hunter" + "2")
    except ValueError as exc:
        get_logger().error("rpc_failed", exc_info=exc)
    written = capsys.readouterr().err
    assert "failing" in written
    assert "hunter2" not in written


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequestError, match="debug, info, warning, error"):
        configure("broker", "loud")
