"""What a run would have cost at its origin at once: the yardstick of savings. Pure.

The same measured run time, started at the moment of submission on the origin's first pool that
fits the request, at the origin's price, carbon and PUE; what the origin then lacked is fetched from
the cheapest holder. No queueing, no penalty, no failure: the yardstick is kind to the origin.
An origin without GPUs could not have run it: its yardstick is the charge itself, so that it saves
nothing.
"""

from gcos.accounting import Charge, RunTerms, run_charge
from gcos.contract_net import Report
from gcos.signals import SiteSignals
from gcos.sites import Site
from gcos.task_record import Task
from gcos.tasks import ANY_GPU


def charge_at_origin(
    task: Task, report: Report, *, site: Site, signals: SiteSignals, byte_ratio: float
) -> Charge:
    """Return the charge of the reported run at its origin `site` at once."""
    if not site.pools:
        return report.charge
    transfers = Charge.sum(
        Charge(
            transfer_usd=fetch.cost_usd,
            network_gco2=fetch.carbon_gco2,
            transfer_bytes=round(fetch.size_bytes * byte_ratio),
        )
        for fetch in task.origin_fetches
    )
    gpu = task.spec.gpu
    fitting = [
        pool
        for pool in site.pools
        if gpu.type in (ANY_GPU, pool.type) and pool.gpu_count >= gpu.gpu_count
    ]
    pool = (fitting or list(site.pools))[0]
    run = run_charge(
        RunTerms(
            gpu_count=gpu.gpu_count,
            active_kw=pool.active_kw,
            pue=site.pue,
            gpu_usd_per_h=pool.usd_per_gpu_h,
        ),
        signals.price.series,
        None if signals.carbon is None else signals.carbon.series,
        start_s=task.submitted_s,
        end_s=task.submitted_s + report.run_s,
    )
    return transfers + run
