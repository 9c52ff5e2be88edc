"""Writes the page: what was run, what came of it, against what, and where the subject loses."""

from collections.abc import Sequence

from testbed.evaluation import Evaluation
from testbed.report import details, findings, markup, verdicts
from testbed.report.fronts import sweeps
from testbed.report.sources import Placements, Sources
from testbed.report.told import Told


def report_page(
    sources: Sources, placements: Sequence[Placements], *, subject: str | None = None
) -> str:
    """Return the page.

    Args:
        sources: Evaluations; the one with the most runs is in the middle, of equals that of the
            default scenario, then the one with the fewest changes of its scenario, then the first.
        placements: Exported runs.
        subject: Policy whose savings and losses are shown; None: the one of the lowest mean J.
    """
    found = max(
        (each for each in sources.evaluations if subject is None or _has(each, subject)),
        key=lambda each: (
            len(each.runs),
            (each.origin.base or each.scenario) == "default",
            -each.scenario.count("+"),
        ),
    )
    others = tuple(each for each in sources.evaluations if each is not found)
    told = Told(found, others, subject or findings.best_policy(found))
    swept = sweeps(found, others)
    made = [
        ("run", "What was run", verdicts.run_section(told)),
        ("policies", "What each policy came to", verdicts.policies_section(told)),
        (
            "savings",
            f"What {told.subject} saves against each policy",
            verdicts.savings_section(told),
        ),
        ("losses", f"Where {told.subject} loses", verdicts.losses_section(told)),
        ("bounds", "Distance to the least that is known", verdicts.bounds_section(told)),
        ("front", "Cost against carbon over carbon prices", details.front_section(told, swept)),
        ("parts", "What cost and carbon are made of", details.parts_section(told)),
        ("caches", "Cache hits, lateness and waiting", details.caches_section(told)),
        ("placements", "Where and when tasks ran", details.placements_section(told, placements)),
        (
            "sensitivity",
            "How much it depends on what was assumed",
            details.sensitivity_section(told, swept),
        ),
        ("others", "Other evaluations", verdicts.others_section(told, swept)),
        *[
            ("paper", "Beside a paper's figures", verdicts.paper_section(each))
            for each in sources.papers[:1]
        ],
        ("notes", "What one must know", verdicts.notes_section(told)),
    ]
    body = "".join(markup.section(name, title, text) for name, title, text in made)
    count = len(found.policies)
    title = (
        f"{found.origin.base or found.scenario}, {count} {'policies' if count > 1 else 'policy'}"
    )
    return markup.page(f"GCOS report: {title}", [(name, text) for name, text, _ in made], body)


def _has(found: Evaluation, policy: str) -> bool:
    return any(each.policy == policy for each in found.policies)
