"""The shell script by which a client at the machine reaches an agent in a container."""

import shutil
import subprocess
from collections.abc import Iterator
from socket import create_server, socket

import pytest

from testbed.wan.beds import door_script

#: Seconds until a script that does not end fails its test.
LIMIT_S = 20.0


@pytest.fixture
def shell() -> Iterator[tuple["subprocess.Popen[bytes]", socket]]:
    """Run the script, and give it and the agent's end of its connection."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    with create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        host, port = server.getsockname()
        with subprocess.Popen(
            [bash, "-c", door_script(f"{host}:{port}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as child:
            agent, _ = server.accept()
            agent.settimeout(LIMIT_S)
            with agent:
                try:
                    yield child, agent
                finally:
                    child.kill()


def test_what_either_end_says_comes_to_the_other(shell):
    child, agent = shell
    child.stdin.write(b"ask")
    child.stdin.flush()
    assert agent.recv(3) == b"ask"
    agent.sendall(b"answer")
    assert child.stdout.read(6) == b"answer"


def test_a_door_closes_when_its_client_is_gone(shell):
    child, agent = shell
    child.stdin.close()
    assert agent.recv(1) == b""
    child.wait(LIMIT_S)


def test_a_door_closes_when_its_agent_is_gone_though_the_client_says_nothing(shell):
    child, agent = shell
    agent.close()
    assert child.stdout.read() == b""
    child.wait(LIMIT_S)
