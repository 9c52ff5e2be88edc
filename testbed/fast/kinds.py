"""Kinds of events. Each is one event of `testbed.sim.simulation`, in the same order."""

from typing import Final

SUBMIT: Final = 0
TICK_ORIGIN: Final = 1
NEGOTIATE: Final = 2
AWARD: Final = 3
AWARD_ANSWERED: Final = 4
REJECT: Final = 5
HOLD: Final = 6
STAGE: Final = 7
RENEW: Final = 8
RENEW_DELIVERED: Final = 9
RENEW_ANSWERED: Final = 10
TICK_PARTICIPANT: Final = 11
FLOW_END: Final = 12
EXIT: Final = 13
PUBLISH: Final = 14
REPORT: Final = 15
REPORT_ANSWERED: Final = 16
BEAT_DUE: Final = 17
CHURN: Final = 18
NOTICED: Final = 19
