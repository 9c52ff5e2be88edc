"""What a person can do about a site that does not offer to run a task, by its reason. Pure."""

from typing import Final

from gcos.tasks import Reason

_STEPS: Final = {
    Reason.NO_SITE_REACHABLE: (
        "see who answers: gcos sites ls; its operator may restart the agent (gcos up, where it is"
        " a local cluster)"
    ),
    Reason.NO_BID: "ask again in a few seconds",
    Reason.SITE_DRAINING: "wait until the site is back, or let others run it: placement",
    Reason.QUEUE_FULL: "wait until runs end there, or let other sites run it: placement",
    Reason.PLACEMENT_EXCLUDES: "as the task asks; to have it run there, change its placement",
    Reason.GPU_TYPE_UNKNOWN: "write resources.gpu.type: any, or a type that is there",
    Reason.GPU_COUNT_TOO_HIGH: "ask for fewer GPUs: resources.gpu.count",
    Reason.ARTIFACT_TOO_LARGE: "use a smaller artifact, or a site with more room: gcos cache ls",
    Reason.ARTIFACT_UNREACHABLE: "see who holds it: gcos cache ls; or add it: gcos cache add",
    Reason.CACHE_FULL: "wait until runs there end; what they use: gcos cache ls",
    Reason.IMAGE_UNSUPPORTED: "remove image:, or let sites run it whose executors take images",
    Reason.SECRET_MISSING: "ask its operator to put it into <data dir>/secrets/NAME, mode 0600",
    Reason.OUTPUT_REFUSED: "name a place below its output_roots, or ask its operator for more",
    Reason.STALE_SIGNAL: "wait for its signal (gcos carbon now), or remove max_carbon_g:",
    Reason.OVER_COST_LIMIT: "raise max_cost_usd, or give it time: a later deadline",
    Reason.OVER_CARBON_LIMIT: "raise max_carbon_g, or give it time: a later deadline",
}


def next_step(reason: Reason) -> str:
    """Return what a person can do where a site refuses for `reason`."""
    return _STEPS.get(reason, "plan it again in a few seconds: gcos plan FILE")
