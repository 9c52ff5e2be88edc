"""Places LLM jobs over GPU data centers where and when they cost the least carbon and money."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gcos.client import Client

__all__ = ["Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the client when it is asked for: the pure cores live in this package too."""
    if name == "Client":
        from gcos.client import Client  # noqa: PLC0415

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
