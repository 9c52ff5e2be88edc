"""How the trained actors of an agent are. Pure records.

Field for field as in `proto/gcos/v1/operator.proto`; `gcos.rpc.wire` converts.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActorStatus:
    """One actor.

    Attributes:
        part: Which: `artifact` or `task`.
        version: Part and digest of its file; empty where none is used.
        residual_ratio: Weight of what was learned beside the rule; 0: it changes no decision.
        call_count: Calls since the agent started.
        fallback_reason: Why the rule decides alone, such as `actor-missing`; empty: it does not.
        message: One sentence where the rule decides alone.
    """

    part: str
    version: str
    residual_ratio: float
    call_count: int
    fallback_reason: str
    message: str
