"""What one source had in a fetch. Pure."""

from dataclasses import dataclass

from gcos.contract_net import Holder


@dataclass(frozen=True, slots=True)
class FetchPart:
    """What came from one source.

    Attributes:
        source: Who sent it.
        bytes_moved: Bytes received, discarded ones included.
    """

    source: Holder
    bytes_moved: int
