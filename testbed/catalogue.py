"""What tasks ask for: models and data sets with homes, sizes and a joint popularity. Pure.

Draws are keyed by names and positions (`gcos.seeds.stream`), so that a scenario that changes one
parameter keeps the draws of all others.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import BYTES_PER_GB
from gcos.artifacts import Artifact, ArtifactKind
from gcos.errors import InvalidRequestError
from gcos.ids import ArtifactId, SiteId
from gcos.seeds import stream
from testbed.scenarios.records import Scenario
from testbed.sim.instance import Upstream


@dataclass(frozen=True, slots=True, eq=False)
class DrawnCatalogue:
    """The artifacts of an instance.

    Attributes:
        models: In the order of `catalogue.model_gb`.
        data_sets: The most popular first.
        popularity: (data sets, models) weights of the pairs, not normalised.
    """

    models: tuple[Upstream, ...]
    data_sets: tuple[Upstream, ...]
    popularity: NDArray[np.float64]

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """All artifacts, sorted by id."""
        return tuple(
            sorted((*self.models, *self.data_sets), key=lambda each: each.artifact.artifact_id)
        )

    def pair_probabilities(self, data_gb_max: float) -> NDArray[np.float64]:
        """Return the (data sets, models) probabilities of pairs for a class of tasks.

        Raises:
            InvalidRequestError: No data set is that small.
        """
        sizes = np.array([each.artifact.size_bytes for each in self.data_sets])
        fits = sizes <= data_gb_max * BYTES_PER_GB
        if not fits.any():
            raise InvalidRequestError(
                f"no data set that was drawn has at most {data_gb_max:g} GB",
                field="workload.data_gb_max",
                hint="raise it, or lower the median of catalogue.data_gb_lognormal",
            )
        weights = self.popularity * fits[:, np.newaxis]
        return np.asarray(weights / weights.sum())


def draw_catalogue(scenario: Scenario, seed: int) -> DrawnCatalogue:
    """Return models, data sets, their homes and the popularity of each pair.

    popularity(m, d) = rank(m)^-z rank(d)^-z a(m, d), a lognormal(0, 1): a Zipf law of exponent
    z = `workload.zipf` for each side, and an affinity.
    """
    plan = scenario.catalogue
    sites = [SiteId(site.id) for site in scenario.site]
    names = _model_names(plan.model_gb)
    data_gb = _data_sizes_gb(scenario, seed)
    models = _upstreams(ArtifactKind.MODEL, names, plan.model_gb, sites, seed)
    data_names = [f"data-{index + 1}" for index in range(plan.data_sets)]
    data_sets = _upstreams(ArtifactKind.DATA, data_names, data_gb, sites, seed)
    model_rank = _model_ranks(plan.model_gb, scenario.workload.model_rank_noise, seed)
    # Sizes of data sets are drawn independently of their order, which therefore is a random rank.
    data_rank = np.arange(1, plan.data_sets + 1)
    zipf = scenario.workload.zipf
    affinity = _affinity(plan.data_sets, len(names), seed)
    popularity = np.outer(data_rank**-zipf, model_rank**-zipf) * affinity
    return DrawnCatalogue(models, data_sets=data_sets, popularity=popularity)


def artifact(kind: ArtifactKind, name: str, size_gb: float) -> Artifact:
    """Return an artifact whose id is a hash of what tells it apart, as no content exists."""
    size_bytes = max(1, round(size_gb * BYTES_PER_GB))
    digest = hashlib.sha256(f"{kind.value} {name} {size_bytes}".encode()).hexdigest()
    return Artifact(ArtifactId(f"sha256:{digest}"), kind=kind, name=name, size_bytes=size_bytes)


def uniform_site(sites: Sequence[SiteId], seed: int, *path: str | int) -> SiteId:
    """Return a site drawn uniformly; another site in the list moves only the draws that it wins.

    The largest of equal independent draws, one for each site, is uniform.
    """
    draws = {site: float(stream(seed, *path, site).random()) for site in sites}
    return max(sites, key=lambda site: (draws[site], site))


def _upstreams(
    kind: ArtifactKind,
    names: Sequence[str],
    sizes_gb: Sequence[float] | NDArray[np.float64],
    sites: Sequence[SiteId],
    seed: int,
) -> tuple[Upstream, ...]:
    return tuple(
        Upstream(
            artifact(kind, name, float(size_gb)),
            home=uniform_site(sites, seed, "workload", "home", name),
        )
        for name, size_gb in zip(names, sizes_gb, strict=True)
    )


def _model_names(sizes_gb: Sequence[float]) -> list[str]:
    """Return names such as `model-4.7gb`; a size that is there again gets a number."""
    names: list[str] = []
    for index, size in enumerate(sizes_gb):
        again = sizes_gb[:index].count(size)
        names.append(f"model-{size:g}gb" + (f"-{again + 1}" if again else ""))
    return names


def _model_ranks(sizes_gb: Sequence[float], noise: float, seed: int) -> NDArray[np.float64]:
    """Return popularity ranks from 1: those of ln(size) + N(0, noise)."""
    normal = stream(seed, "workload", "model-rank").standard_normal(len(sizes_gb))
    score = np.log(np.array(sizes_gb)) + noise * normal
    ranks = np.empty(len(sizes_gb))
    ranks[np.argsort(score, kind="stable")] = np.arange(1, len(sizes_gb) + 1)
    return ranks


def _data_sizes_gb(scenario: Scenario, seed: int) -> NDArray[np.float64]:
    law = scenario.catalogue.data_gb_lognormal
    normal = stream(seed, "workload", "data-size").standard_normal(scenario.catalogue.data_sets)
    return np.clip(law.median * np.exp(law.sigma * normal), law.min, law.max)


def _affinity(data_count: int, model_count: int, seed: int) -> NDArray[np.float64]:
    """Return lognormal(0, 1) affinities, a row for each data set from a stream of its own."""
    rows = [
        stream(seed, "workload", "affinity", index).standard_normal(model_count)
        for index in range(data_count)
    ]
    return np.exp(np.array(rows))
