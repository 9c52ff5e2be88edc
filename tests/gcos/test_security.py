"""Token files and addresses: what is accepted, and that every refusal names the fix."""

import os
import stat
from pathlib import Path

import pytest

from gcos.errors import InvalidRequestError
from gcos.rpc.security import read_token, require_loopback, write_token


def test_a_written_token_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = write_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == token
    assert len(token) >= 43
    assert list(tmp_path.iterdir()) == [tmp_path / "token"]


def test_a_token_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_token(tmp_path / "token")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_an_existing_token_is_never_replaced(tmp_path: Path) -> None:
    token = write_token(tmp_path / "token")
    with pytest.raises(InvalidRequestError, match="exists already"):
        write_token(tmp_path / "token")
    assert read_token(tmp_path / "token") == token
    assert list(tmp_path.iterdir()) == [tmp_path / "token"]


def test_a_token_cannot_be_written_into_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        write_token(tmp_path / "nothing" / "token")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_token_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    write_token(path)
    path.chmod(mode)
    with pytest.raises(InvalidRequestError, match="chmod 600") as caught:
        read_token(path)
    assert caught.value.field == "token_file"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short", b"two words of some length", b"\xff" * 32, b"x" * 5000]
)
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidRequestError, match="holds no token"):
        read_token(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="does not exist"):
        read_token(tmp_path / "nothing")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        read_token(tmp_path)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.9.9.9:65535", "localhost:7700", "[::1]:7700"]
)
def test_loopback_addresses_pass(address: str) -> None:
    require_loopback(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7700", "[::]:7700", "10.0.0.1:1", "example.org:443", "127.0.0.1.x:1"]
)
def test_other_addresses_are_refused_with_a_way_out(address: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a loopback address") as caught:
        require_loopback(address)
    assert "tunnel" in caught.value.hint


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", ":7700", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x", "a:-1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequestError, match="no address"):
        require_loopback(address)
