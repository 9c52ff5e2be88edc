"""`gcos testbed parity`. Imports of weight wait for the command."""

from pathlib import Path
from typing import Annotated

import typer

from gcos.cli.invocation import OutputOption, QuietOption


def parity(
    context: typer.Context,
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Shipped scenario, or a file of that form.")
    ] = "no-clean-zones",
    policy: Annotated[str, typer.Option(help="Policy, one that agents can run.")] = "rule",
    on: Annotated[
        str, typer.Option(metavar="live|testbed", help="Without or with emulated distances.")
    ] = "testbed",
    data: Annotated[
        Path | None,
        typer.Option(help="Directory of tables (gcos data import); else shipped typical days."),
    ] = None,
    week: Annotated[str, typer.Option(help="Its Monday, or its ISO number.")] = "2023-01-02",
    seed: Annotated[int, typer.Option(help="Seed of the workload.")] = 1,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the scenario."),
    ] = None,
    speed: Annotated[float, typer.Option(help="World seconds per wall second.")] = 60.0,
    byte_ratio: Annotated[
        float, typer.Option(help="World bytes that each stored byte stands for.")
    ] = 1e5,
    output: OutputOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a scenario on real agents and compare them with the simulator.

    Every bid and award is made again from what it was made from; the simulator is fed
    with the times of the live run, and places the tasks; and the same run simulated on
    its own is set beside it, with the difference of J, cost and carbon. The scenario
    must be short: an hour of it takes a minute of the wall and more.

    Exit codes:
      0  all decisions are the same, and 99 % of the tasks are placed alike
      1  they are not
      2  an option cannot be, or the scenario is for the simulator alone
      4  the run failed
      130  interrupted; nothing is left running

    Example:
      gcos testbed parity --scenario examples/short-jobs.toml --policy joint
    """
    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.evaluate import Pair, RunOrder, instance_of, monday_s  # noqa: PLC0415
    from testbed.interruption import interruptible  # noqa: PLC0415
    from testbed.live.checks import LiveOptions  # noqa: PLC0415
    from testbed.live.parity import parity as compared  # noqa: PLC0415
    from testbed.live.report import show_parity  # noqa: PLC0415
    from testbed.live.run import run_live  # noqa: PLC0415
    from testbed.scenarios import load_scenario  # noqa: PLC0415
    from testbed.wan.commands import output_of  # noqa: PLC0415

    if on not in {"live", "testbed"}:
        raise InvalidRequestError(
            f"{on!r} is no place to run agents", field="on", hint="one of live, testbed"
        )
    out = output_of(context, output, quiet)
    options = LiveOptions(has_links=on == "testbed", speed=speed, byte_ratio=byte_ratio)
    plan = load_scenario(scenario, changes or ())
    order = RunOrder(
        plan, data=data, pair=Pair(monday_s(week), seed), policy=policy, cache_mode="dual", code=""
    )
    instance = instance_of(order)
    try:
        with interruptible():
            run = run_live(instance, options, policy=policy, tell=out.say)
    except KeyboardInterrupt:
        out.say("interrupted; nothing is left running")
        raise typer.Exit(130) from None
    with out.progress("replaying"):
        found = compared(instance, run, policy=policy, on=on, speed=speed)
    show_parity(found, out)
    if not found.is_success:
        raise typer.Exit(1)
