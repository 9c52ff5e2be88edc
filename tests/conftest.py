"""How property tests choose their examples, and that what tests start can be interrupted.

`make test` tries the same examples each time, so that it says of one commit always the same;
`make soak` goes on searching, and what it finds becomes an example or a mended function.
"""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile(
    "search", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gate")

# A shell that starts the tests in the background has them ignore SIGINT, and their children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
