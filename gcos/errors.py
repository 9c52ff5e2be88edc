"""What can go wrong, as one tree. `code` is the gRPC status name an RPC answers with.

    GcosError
    ├── InvalidRequestError        INVALID_ARGUMENT      the caller fixes the request
    │   └── InvalidTaskError
    ├── UnauthenticatedError       UNAUTHENTICATED       the caller brings a token
    ├── NotFoundError              NOT_FOUND             the caller refreshes its view
    │   ├── UnknownTaskError
    │   ├── UnknownSiteError
    │   └── ArtifactNotFoundError
    ├── WrongStateError            FAILED_PRECONDITION   not before the state changes
    │   ├── StaleFenceError
    │   ├── RequestIdTakenError
    │   └── NoCandidateError
    ├── NegotiationError           ABORTED               restart the negotiation, not the call
    │   ├── LateBidError
    │   ├── NoBidError
    │   └── AwardConflictError
    ├── ExhaustedError             RESOURCE_EXHAUSTED    back off or pick another site
    │   ├── QueueFullError
    │   ├── CacheFullError
    │   └── TooLargeError
    ├── DigestMismatchError        DATA_LOSS             discard the copy, fetch from another holder
    ├── NotEndedError              DEADLINE_EXCEEDED     wait longer
    └── UnavailableError           UNAVAILABLE           retry with backoff (AIP-194)
        ├── SiteDrainingError
        └── PeerUnreachableError

Every error says what is wrong and, as `hint`, what to do next.
"""

from typing import ClassVar


class GcosError(Exception):
    """Root of the tree.

    Attributes:
        code: Name of the gRPC status.
        reason: Closed, upper-case word that programs may branch on.
        field: Dotted path of the field at fault, such as `resources.gpu.count`; may be empty.
        line: Line of the document, from 1; 0 where there is none.
        hint: The next step for a person; may be empty.
    """

    code: ClassVar[str] = "INTERNAL"
    reason: str = "INTERNAL"

    def __init__(self, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.line = 0
        self.hint = hint

    def locate(self, line: int) -> None:
        """Put line and field in front of the message.

        For what is found wrong with a document after it was read.
        """
        assert self.field, "only a field has a line"
        assert not self.line, "told already"
        self.line = line
        self.message = f"line {line}, {self.field}: {self.message}"
        self.args = (self.message,)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidRequestError(GcosError):
    """A request cannot be understood or breaks a stated limit."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_REQUEST"


class InvalidTaskError(InvalidRequestError):
    """A task spec is wrong; the message begins with line and field."""

    reason = "INVALID_TASK"

    def __init__(self, message: str, *, field: str = "", line: int = 0, hint: str = "") -> None:
        where = f"line {line}, {field}" if line and field else (f"line {line}" if line else field)
        super().__init__(f"{where}: {message}" if where else message, field=field, hint=hint)
        self.line = line


class UnauthenticatedError(GcosError):
    """The caller shows no token, or a wrong one."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class NotFoundError(GcosError):
    """Something named in the request does not exist."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class UnknownTaskError(NotFoundError):
    """No such task at this site."""

    reason = "UNKNOWN_TASK"


class UnknownSiteError(NotFoundError):
    """No such site in the cluster."""

    reason = "UNKNOWN_SITE"


class ArtifactNotFoundError(NotFoundError):
    """No site holds the artifact."""

    reason = "ARTIFACT_NOT_FOUND"


class WrongStateError(GcosError):
    """The thing exists, but its state forbids the request."""

    code = "FAILED_PRECONDITION"
    reason = "WRONG_STATE"


class StaleFenceError(WrongStateError):
    """A message of a superseded attempt."""

    reason = "STALE_FENCE"


class RequestIdTakenError(WrongStateError):
    """The request id belongs to a task that was made of another document."""

    reason = "REQUEST_ID_TAKEN"


class NoCandidateError(WrongStateError):
    """No site can ever run the task as specified."""

    reason = "NO_CANDIDATE"


class NegotiationError(GcosError):
    """A negotiation failed and may be started again."""

    code = "ABORTED"
    reason = "NEGOTIATION"


class LateBidError(NegotiationError):
    """A bid arrived after its window had closed."""

    reason = "LATE_BID"


class NoBidError(NegotiationError):
    """Nobody offered to run the task."""

    reason = "NO_BID"


class AwardConflictError(NegotiationError):
    """The winner cannot honour its bid any more."""

    reason = "AWARD_CONFLICT"


class ExhaustedError(GcosError):
    """A stated limit is reached."""

    code = "RESOURCE_EXHAUSTED"
    reason = "EXHAUSTED"


class QueueFullError(ExhaustedError):
    """The queue of tasks is full."""

    reason = "QUEUE_FULL"


class CacheFullError(ExhaustedError):
    """Nothing evictable would make enough room."""

    reason = "CACHE_FULL"


class TooLargeError(ExhaustedError):
    """A document or message is larger than its stated limit."""

    reason = "TOO_LARGE"


class DigestMismatchError(GcosError):
    """Bytes do not hash to what was asked for."""

    code = "DATA_LOSS"
    reason = "DIGEST_MISMATCH"


class NotEndedError(GcosError):
    """What was waited for has not ended in the time that the caller gave it."""

    code = "DEADLINE_EXCEEDED"
    reason = "NOT_ENDED"


class UnavailableError(GcosError):
    """Nothing is wrong with the request; try again."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"


class SiteDrainingError(UnavailableError):
    """The site takes no new work."""

    reason = "SITE_DRAINING"


class PeerUnreachableError(UnavailableError):
    """A peer did not answer in time."""

    reason = "PEER_UNREACHABLE"
