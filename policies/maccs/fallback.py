"""Why the rule decides without an actor. Pure."""

from dataclasses import dataclass
from enum import Enum


class FallbackReason(Enum):
    """Why an actor is not asked, and the rule decides alone."""

    MISSING = "actor-missing"
    """There is no file."""
    CORRUPT = "actor-corrupt"
    """The file is no model, has no card, or the model does not do what the card says."""
    VERSION = "actor-version"
    """It is an actor of another format, part or set of features, or one that no site can ask."""
    RUNTIME = "actor-runtime"
    """It was loaded, and answered with an error or with what is no number."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """An actor that cannot be asked.

    Attributes:
        reason: Why.
        message: One sentence for a person, with the file.
    """

    reason: FallbackReason
    message: str
