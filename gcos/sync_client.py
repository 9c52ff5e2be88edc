"""The client without `await`: for scripts, notebooks and programs that have no event loop.

    with SyncClient.connect() as client:
        submission = client.submit(Path("job.yaml").read_bytes())
        task = client.wait(submission.task.task_id)

Every method of `gcos.client.Client` is here under the same name, with the same parameters: each is
made from the original, so the two cannot drift apart. What is an `AsyncGenerator` there is a
`Generator` here; leave it early only under `contextlib.closing`.

The calls run on an event loop in a thread of its own. grpc.aio wants **one event loop in a
process**: with several it works, but logs spurious `BlockingIOError` (grpc issue 25364). So open
one client and share it, which is safe between threads; and in a program that runs an event loop
already, hand that loop to `connect` and call from another thread, or use `Client`. A process that
has opened a client must not `fork`; `spawn` and `exec` are fine.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
)
from pathlib import Path
from types import GenericAlias
from typing import Any, Concatenate, ParamSpec, TypeVar

from gcos.client import _LOG, Client
from gcos.clock import Clock
from gcos.errors import WrongStateError
from gcos.ids import SiteId

P = ParamSpec("P")
T = TypeVar("T")


def _signed(
    blocking: Callable[..., Any], method: Callable[..., Any], result: object
) -> Callable[..., Any]:
    """Give `blocking` the signature of `method`, with `result` as what it returns."""
    signature = inspect.signature(method).replace(return_annotation=result)
    blocking.__signature__ = signature  # type: ignore[attr-defined]
    blocking.__annotations__ = {**method.__annotations__, "return": result}
    blocking.__qualname__ = f"SyncClient.{method.__name__}"
    blocking.__module__ = __name__
    return blocking


def _mirrored(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> "Callable[Concatenate[SyncClient, P], T]":
    """Return the blocking form of a coroutine method."""

    @functools.wraps(method)
    def blocking(self: "SyncClient", *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(lambda client: method(client, *args, **kwargs))

    return _signed(blocking, method, inspect.signature(method).return_annotation)


def _mirrored_stream(
    method: Callable[Concatenate[Client, P], AsyncGenerator[T, None]],
) -> "Callable[Concatenate[SyncClient, P], Generator[T, None, None]]":
    """Return the blocking form of a method that yields."""

    @functools.wraps(method)
    def blocking(self: "SyncClient", *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        stream = method(self._client, *args, **kwargs)
        try:
            while items := self._run(lambda _client: _next(stream)):
                yield items[0]
        finally:
            if not self._is_closed:
                self._run(lambda _client: stream.aclose())

    item = inspect.signature(method).return_annotation.__args__[0]
    return _signed(blocking, method, GenericAlias(Generator, (item, None, None)))


async def _next(stream: AsyncGenerator[T, None]) -> tuple[T, ...]:
    """Return the next item, or nothing at the end."""
    async for item in stream:
        return (item,)
    return ()


class SyncClient:
    """Calls a cluster through one of its agents. Made by `connect`; safe between threads.

    Every method raises what its namesake of `Client` raises.
    """

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._is_closed = False

    @classmethod
    @contextlib.contextmanager
    def connect(
        cls,
        agent: str | None = None,
        token_file: Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tell: Callable[[str], None] = _LOG.warning,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Iterator["SyncClient"]:
        """Connect to the first agent that answers, until the block ends.

        Args:
            agent: `host:port`, or several separated by commas; else `GCOS_AGENT`, else the cluster
                that `gcos up` started.
            token_file: File with the token; else `GCOS_TOKEN_FILE`, else that cluster's.
            environ: Environment; `os.environ` by default.
            clock: Measures outages.
            pause: Waits for some seconds between attempts.
            tell: Takes a line where another agent than the first one answers; by default it is
                logged as a warning.
            loop: An event loop that runs in another thread; one of its own by default.

        Raises:
            InvalidRequestError: No agent or token is known, or the token file is unusable.
            PeerUnreachableError: No agent answers.
            UnauthenticatedError: The token is not theirs.
        """
        with contextlib.ExitStack() as stack:
            running = loop or stack.enter_context(_loop_in_thread())
            connection = Client.connect(
                agent, token_file, environ=environ, clock=clock, pause=pause, tell=tell
            )
            client = cls(stack.enter_context(_entered(connection, running)), running)
            try:
                yield client
            finally:
                client._is_closed = True

    @property
    def site_id(self) -> SiteId:
        """The site whose agent is called."""
        return self._client.site_id

    submit = _mirrored(Client.submit)
    plan = _mirrored(Client.plan)
    task = _mirrored(Client.task)
    tasks = _mirrored(Client.tasks)
    watch = _mirrored_stream(Client.watch)
    wait = _mirrored(Client.wait)
    cancel = _mirrored(Client.cancel)
    explain = _mirrored(Client.explain)
    results = _mirrored(Client.results)
    log = _mirrored_stream(Client.log)
    log_pieces = _mirrored_stream(Client.log_pieces)
    ledger = _mirrored(Client.ledger)
    sites = _mirrored(Client.sites)
    cache = _mirrored(Client.cache)
    copy_log = _mirrored(Client.copy_log)
    signals = _mirrored(Client.signals)
    world_now_s = _mirrored(Client.world_now_s)
    add_artifact = _mirrored(Client.add_artifact)
    put_artifact = _mirrored(Client.put_artifact)
    pull_artifact = _mirrored_stream(Client.pull_artifact)
    pin_artifact = _mirrored(Client.pin_artifact)
    verify_artifacts = _mirrored_stream(Client.verify_artifacts)
    prune_cache = _mirrored(Client.prune_cache)
    remove_artifact = _mirrored(Client.remove_artifact)

    def _run(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        if self._is_closed:
            raise WrongStateError("the client is closed", hint="call it inside its `with` block")
        return _on(self._loop, call(self._client))


def _on(loop: asyncio.AbstractEventLoop, body: Coroutine[Any, Any, T]) -> T:
    """Return what `body` returns on `loop`; an interrupted caller takes its call back."""
    future = asyncio.run_coroutine_threadsafe(body, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@contextlib.contextmanager
def _entered(
    connection: contextlib.AbstractAsyncContextManager[Client], loop: asyncio.AbstractEventLoop
) -> Iterator[Client]:
    """Enter and leave `connection` on `loop`."""

    async def enter() -> Client:
        return await connection.__aenter__()

    async def leave() -> None:
        await connection.__aexit__(None, None, None)

    client = _on(loop, enter())
    try:
        yield client
    finally:
        _on(loop, leave())


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop in a thread until the block ends.

    The thread opens and closes the loop too, as the caller's may run one of its own (notebooks do).
    """
    started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
    started = concurrent.futures.Future()

    async def stay() -> None:
        stopping = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stopping))
        await stopping.wait()

    # A daemon: a program that forgets to leave the block ends all the same.
    thread = threading.Thread(target=lambda: asyncio.run(stay()), name="gcos-client", daemon=True)
    thread.start()
    loop, stopping = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
