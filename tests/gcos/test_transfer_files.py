"""What may travel with a task, and what it goes by."""

import os
from pathlib import Path

import pytest

from gcos.errors import InvalidRequestError
from gcos.transfer_files import Arriving, content_id, files_of


def refusal_of(directory: Path) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        files_of(directory)
    assert caught.value.hint, "every refusal tells the next step"
    assert caught.value.field == "workdir"
    return caught.value


def test_files_are_told_sorted_and_empty_ones_too(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b").write_text("b")
    (tmp_path / "a").touch()
    assert files_of(tmp_path) == ["a", "inner/b"]


def test_links_special_files_and_nothing_are_refused(tmp_path: Path) -> None:
    assert "holds no bytes" in refusal_of(tmp_path).message
    assert "is no directory" in refusal_of(tmp_path / "absent").message
    (tmp_path / "a").write_text("a")
    os.mkfifo(tmp_path / "pipe")
    assert refusal_of(tmp_path).message == "pipe is a link or special file"
    (tmp_path / "pipe").unlink()
    (tmp_path / "link").symlink_to("a")
    assert refusal_of(tmp_path).message == "link is a link or special file"


def test_the_content_alone_makes_the_id(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("same")
    ids = {content_id(tmp_path / name, ["f"]) for name in ("one", "two")}
    assert len(ids) == 1
    (tmp_path / "two" / "f").write_text("other")
    assert content_id(tmp_path / "two", ["f"]) not in ids


def test_what_cannot_be_read_or_written_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="absent cannot be read") as caught:
        content_id(tmp_path, ["absent"])
    assert (caught.value.field, bool(caught.value.hint)) == ("workdir", True)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequestError, match="cannot be read or written") as caught:
        Arriving(tmp_path / "file" / "results")
    assert (caught.value.field, bool(caught.value.hint)) == ("to", True)
