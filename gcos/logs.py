"""Logs: one event per line on stderr, for people on a terminal, as JSON elsewhere."""

import logging
import os
import sys
from typing import Final, TypeAlias

# structlog draws tracebacks with rich where it finds it. We ask for plain ones, since rich's show
# local variables, which may hold secrets; and importing it is a tenth of an agent's start.
_has_no_rich = "rich" not in sys.modules
if _has_no_rich:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _has_no_rich:
    del sys.modules["rich"]

from gcos.errors import InvalidRequestError  # noqa: E402

Log: TypeAlias = structlog.typing.FilteringBoundLogger

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO} | {
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def get_logger(**values: object) -> Log:
    """Return a logger whose events carry `values`."""
    log: Log = structlog.get_logger(**values)
    return log


def configure(process: str, level: str = "info") -> None:
    """Send the events of this process to stderr, and those of libraries too.

    Args:
        process: What the process is, such as `broker`; on every event.
        level: Least level shown: debug, info, warning or error.

    Raises:
        InvalidRequestError: An unknown level.
    """
    if level not in LEVELS:
        raise InvalidRequestError(
            f"{level!r} is no log level", field="log_level", hint=f"use one of {', '.join(LEVELS)}"
        )

    def name_process(
        _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    before: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_process,
    ]
    renderers = _renderers(is_terminal=sys.stderr.isatty())
    structlog.configure(
        processors=[*before, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (asyncio, grpc) log through the standard library; the same lines for them.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
            foreign_pre_chain=before,
        )
    )
    logging.basicConfig(handlers=[handler], level=max(LEVELS[level], logging.INFO), force=True)


def _renderers(*, is_terminal: bool) -> list[structlog.typing.Processor]:
    # Tracebacks without local variables, which may hold tokens and users' environments.
    if is_terminal:
        return [
            structlog.dev.ConsoleRenderer(
                colors="NO_COLOR" not in os.environ,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]
