"""What no known site can ever do for a task: told at submission rather than waited for. Pure.

Looks at what changes only with the set-up of a site: placement, GPUs, executor, secrets. How busy
or full a site is changes by itself and never stands here.
"""

import difflib
from collections.abc import Collection, Iterable, Sequence

from gcos.contract_net import Refusal
from gcos.errors import GcosError, InvalidRequestError, NoCandidateError
from gcos.known_sites import KnownSite
from gcos.next_steps import next_step
from gcos.tasks import ANY_GPU, Reason, TaskSpec

#: Sites that one message tells of, so that it fits a screen and an HTTP/2 header.
TOLD_COUNT_MAX = 8


def standing_refusal(spec: TaskSpec, known: KnownSite) -> Refusal | None:
    """Return why a site cannot run the task as it is set up; None where it can."""
    site, gpu = known.site, spec.gpu
    problem: tuple[Reason, str] | None = None
    types = [pool.type for pool in site.pools]
    sizes = [pool.gpu_count for pool in site.pools if gpu.type in (ANY_GPU, pool.type)]
    lacking = [name for name in spec.secrets if name not in known.digest.secret_names]
    if not spec.placement.admits(site.site_id, site.zone):
        problem = Reason.PLACEMENT_EXCLUDES, f"the placement excludes {site.site_id} ({site.zone})"
    elif not sizes:
        problem = Reason.GPU_TYPE_UNKNOWN, f"has {', '.join(types) or 'no GPU'}, not {gpu.type}"
    elif max(sizes) < gpu.gpu_count:
        problem = (
            Reason.GPU_COUNT_TOO_HIGH,
            f"largest pool has {max(sizes)} GPUs, not {gpu.gpu_count}",
        )
    elif spec.image is not None and not known.digest.runs_images:
        problem = Reason.IMAGE_UNSUPPORTED, "its executor runs no container images"
    elif lacking:
        problem = Reason.SECRET_MISSING, f"its store has no secret {', '.join(lacking)}"
    if problem is None:
        return None
    return Refusal(site.site_id, problem[0], problem[1], hint=next_step(problem[0]))


def impossibility(spec: TaskSpec, sites: Sequence[KnownSite]) -> GcosError | None:
    """Return why none of `sites` can ever run the task; None where one can.

    The error has the field at fault, where there is one, and not its line.
    """
    refusals = [standing_refusal(spec, known) for known in sites]
    if not all(refusals):
        return None
    admitted = [s for s in sites if spec.placement.admits(s.site.site_id, s.site.zone)]
    found = (
        _excluded(spec, sites, admitted)
        or _without_gpus(spec, admitted)
        or _without_images(spec, admitted)
        or _without_secrets(spec, admitted)
    )
    if found is not None:
        return found
    told = [f"{r.site_id}: {r.message}" for r in refusals if r is not None]
    more = f"; and {len(told) - TOLD_COUNT_MAX} more" if len(told) > TOLD_COUNT_MAX else ""
    return NoCandidateError(
        f"no site can do all that the task asks for: {'; '.join(told[:TOLD_COUNT_MAX])}{more}",
        hint="ask for less, or let more sites run it: placement",
    )


def mistyped_placement(
    spec: TaskSpec, sites: Sequence[KnownSite], zones: Collection[str]
) -> GcosError | None:
    """Return an error for a name under `placement` that is unknown and much like a known one.

    A name that is like no other passes: its site may be away for a while.

    Args:
        spec: The task.
        sites: Every site that is known.
        zones: Electricity zones that exist, with a site or without.
    """
    names = _names(sites)
    for key in ("allow", "deny", "prefer"):
        listed: tuple[str, ...] = getattr(spec.placement, key)
        for index, name in enumerate(listed):
            if name in names or name in zones:
                continue
            near = _near(name, names)
            if near and near.strip("0123456789") != name.strip("0123456789"):
                return InvalidRequestError(
                    f"no site or zone is called {name!r}",
                    field=f"placement.{key}[{index}]",
                    hint=f"did you mean {near}?",
                )
    return None


def _excluded(
    spec: TaskSpec, sites: Sequence[KnownSite], admitted: Sequence[KnownSite]
) -> GcosError | None:
    if admitted:
        return None
    names = _names(sites)
    unknown = [name for name in spec.placement.allow if name not in names]
    near = next((n for name in unknown if (n := _near(name, names))), "")
    field = "placement.allow" if spec.placement.allow else "placement.deny"
    known = f"known: {', '.join(names[: 2 * TOLD_COUNT_MAX])}"
    return NoCandidateError(
        "no known site may run the task",
        field=field,
        hint=f"did you mean {near}? {known}" if near else known,
    )


def _without_gpus(spec: TaskSpec, admitted: Sequence[KnownSite]) -> GcosError | None:
    gpu = spec.gpu
    pools = [pool for known in admitted for pool in known.site.pools]
    fitting = [pool for pool in pools if gpu.type in (ANY_GPU, pool.type)]
    if not fitting:
        types = sorted({pool.type for pool in pools})
        near = _near(gpu.type, types)
        listed = f"write any, or one of {', '.join(types)}" if types else "name another site"
        return NoCandidateError(
            f"no site{_of_those(spec)} has a GPU of type {gpu.type!r}",
            field="resources.gpu.type",
            hint=f"did you mean {near}? {listed}" if near else listed,
        )
    largest = max(pool.gpu_count for pool in fitting)
    if largest < gpu.gpu_count:
        sort = "" if gpu.type == ANY_GPU else f" of type {gpu.type}"
        return NoCandidateError(
            f"no one pool{_of_those(spec)} has {gpu.gpu_count} GPUs{sort}",
            field="resources.gpu.count",
            hint=f"the largest has {largest}: write {largest} or less",
        )
    return None


def _without_images(spec: TaskSpec, admitted: Sequence[KnownSite]) -> GcosError | None:
    if spec.image is None or any(known.digest.runs_images for known in admitted):
        return None
    return NoCandidateError(
        f"the executor of no site{_of_those(spec)} runs container images",
        field="image",
        hint="remove image: and bring what the command needs in a workdir:",
    )


def _without_secrets(spec: TaskSpec, admitted: Sequence[KnownSite]) -> GcosError | None:
    there = sorted({name for known in admitted for name in known.digest.secret_names})
    for index, name in enumerate(spec.secrets):
        if name not in there:
            near = _near(name, there)
            step = next_step(Reason.SECRET_MISSING).replace("NAME", name)
            return NoCandidateError(
                f"no site{_of_those(spec)} has a secret {name}",
                field=f"secrets[{index}]",
                hint=f"did you mean {near}? Else {step}" if near else step,
            )
    return None


def _of_those(spec: TaskSpec) -> str:
    is_limited = spec.placement.allow or spec.placement.deny
    return " that placement admits" if is_limited else ""


def _names(sites: Iterable[KnownSite]) -> list[str]:
    return sorted({name for known in sites for name in (known.site.site_id, known.site.zone)})


def _near(word: str, known: Collection[str]) -> str:
    """Return the known name that is nearest to `word`, whatever its case; empty where none is."""
    by_lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lowered, n=1)
    return by_lowered[close[0]] if close else ""
