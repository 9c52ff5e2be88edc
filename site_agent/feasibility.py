"""What no known site can ever do for a task: told at submission rather than waited for. Pure.

Looks at what changes only with the set-up of a site: placement, GPUs, executor, secrets, roots of
outputs. How busy or full a site is changes by itself and never stands here.
"""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from gcos.contract_net import Refusal
from gcos.errors import GcosError, InvalidRequestError, NoCandidateError
from gcos.known_sites import KnownSite
from gcos.next_steps import next_step
from gcos.sites import Site
from gcos.tasks import ANY_GPU, Reason, TaskSpec

#: Sites that one message tells of, so that it fits a screen and an HTTP/2 header.
TOLD_COUNT_MAX = 8


def standing_refusal(spec: TaskSpec, known: KnownSite) -> Refusal | None:
    """Return why a site cannot run the task as it is set up; None where it can."""
    site, gpu = known.site, spec.gpu
    if (excluded := _placement_refusal(spec, site)) is not None:
        return excluded
    problem: tuple[Reason, str] | None = None
    types = [pool.type for pool in site.pools]
    sizes = [pool.gpu_count for pool in site.pools if gpu.type in (ANY_GPU, pool.type)]
    lacking = [name for name in spec.secrets if name not in known.digest.secret_names]
    barred = [output.uri for output in spec.outputs if _is_barred(output.uri, known)]
    if not sizes:
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
    elif barred:
        problem = Reason.OUTPUT_REFUSED, f"{barred[0]} is under no root that it allows"
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
        or _without_roots(spec, admitted)
    )
    if found is not None:
        return found
    told = [f"{r.site_id}: {r.message}" for r in refusals if r is not None]
    more = f"; and {len(told) - TOLD_COUNT_MAX} more" if len(told) > TOLD_COUNT_MAX else ""
    return NoCandidateError(
        f"no site can do all that the task asks for: {'; '.join(told[:TOLD_COUNT_MAX])}{more}",
        hint="ask for less, or let more sites run it: placement",
    )


def unknown_placement(
    spec: TaskSpec, sites: Sequence[KnownSite], zones: Collection[str]
) -> GcosError | None:
    """Return an error for a name under `placement` that is neither a site nor a zone.

    A zone that exists passes without any site in it: one may come there.

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
            near = _near(name, names) or _near(name, zones)
            is_numbered = near.strip("0123456789") == name.strip("0123456789")
            return InvalidRequestError(
                f"no site or zone is called {name!r}; {_known(sites)}",
                field=f"placement.{key}[{index}]",
                hint=(
                    f"did you mean {near}?"
                    if near and not is_numbered
                    else "write one of these, or the zone of a site that is to come"
                ),
            )
    return None


def _placement_refusal(spec: TaskSpec, site: Site) -> Refusal | None:
    """Return why the placement leaves a site out, with what would let it in; None where it does."""
    if spec.placement.admits(site.site_id, site.zone):
        return None
    denied = next((n for n in spec.placement.deny if n in (site.site_id, site.zone)), None)
    message, step = (
        (f"placement.deny names {denied}", "take it off placement.deny")
        if denied is not None
        else (f"placement.allow does not name {site.site_id} ({site.zone})", "add it there")
    )
    hint = f"as the task asks; to have it run there, {step}"
    return Refusal(site.site_id, Reason.PLACEMENT_EXCLUDES, message, hint=hint)


def _excluded(
    spec: TaskSpec, sites: Sequence[KnownSite], admitted: Sequence[KnownSite]
) -> GcosError | None:
    if admitted:
        return None
    placement = spec.placement
    wanted = replace(placement, deny=())
    denied = [s.site.site_id for s in sites if wanted.admits(s.site.site_id, s.site.zone)]
    if placement.allow and denied:
        return NoCandidateError(
            "placement.deny excludes every site that placement.allow admits:"
            f" {', '.join(denied[:TOLD_COUNT_MAX])}",
            field="placement.deny",
            hint=f"take one off; {_known(sites)}",
        )
    names = _names(sites)
    unknown = [name for name in placement.allow if name not in names]
    near = next((n for name in unknown if (n := _near(name, names))), "")
    return NoCandidateError(
        "no known site may run the task",
        field="placement.allow" if placement.allow else "placement.deny",
        hint=f"did you mean {near}? {_known(sites)}" if near else _known(sites),
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


def _without_roots(spec: TaskSpec, admitted: Sequence[KnownSite]) -> GcosError | None:
    for index, output in enumerate(spec.outputs):
        if all(_is_barred(output.uri, known) for known in admitted):
            roots = sorted({root for known in admitted for root in known.digest.output_roots})
            allowed = f"allowed: {', '.join(roots[:TOLD_COUNT_MAX])}; " if roots else ""
            return NoCandidateError(
                f"no site{_of_those(spec)} allows outputs to be copied to {output.uri}",
                field=f"outputs[{index}].uri",
                hint=f"{allowed}ask an operator to add its directory to output_roots",
            )
    return None


def _is_barred(uri: str, known: KnownSite) -> bool:
    """Tell whether a site copies nothing to a place, by the roots that it tells of."""
    if not uri:
        return False
    parent = PurePosixPath(uri.removeprefix("file://")).parent
    return not any(parent.is_relative_to(root) for root in known.digest.output_roots)


def _known(sites: Sequence[KnownSite]) -> str:
    """Return the sites with their zones, as many as a message takes."""
    told = [f"{each.site.site_id} ({each.site.zone})" for each in sites[: 2 * TOLD_COUNT_MAX]]
    more = f" and {len(sites) - len(told)} more" if len(sites) > len(told) else ""
    return f"known: {', '.join(told)}{more}"


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
