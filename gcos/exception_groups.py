"""Unwraps exception groups: a `TaskGroup` puts even a single error into one."""


def sole_error(error: BaseException) -> BaseException:
    """Return the one error inside `error`, however deeply grouped; `error` itself otherwise."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
