"""Places LLM jobs over GPU data centers where and when they cost the least carbon and money."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gcos.client import Client
    from gcos.sync_client import SyncClient

__all__ = ["Client", "SyncClient", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a client when it is asked for: the pure cores live in this package too."""
    if name == "Client":
        from gcos.client import Client  # noqa: PLC0415

        return Client
    if name == "SyncClient":
        from gcos.sync_client import SyncClient  # noqa: PLC0415

        return SyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
