"""`gcos train`: trains the learned parts. Imports of weight wait for the command."""

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Final

import typer

from gcos.cli.invocation import ExitCode, Invocation, QuietOption

#: What training imports beyond what agents need.
_NEEDED: Final = ("torch", "tensorboard", "numba", "onnx")


def train(
    context: typer.Context,
    config: Annotated[
        str,
        typer.Option(
            metavar="FILE|NAME", help="A TOML file, or a shipped one: artifact, task, central."
        ),
    ],
    out_directory: Annotated[
        Path, typer.Option("--out", help="Where the actor, its card, logs and checkpoints go.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Directory of tables (gcos data import); else as the file says."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes, each with one thread.")] = 1,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or auto: CUDA where there is one.")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    gate: Annotated[
        bool, typer.Option("--gate/--no-gate", help="Let the ship gate judge what was trained.")
    ] = True,
    only_gate: Annotated[
        bool, typer.Option("--only-gate", help="Judge the actor that is in --out.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Train an actor on past weeks, and let the ship gate say whether it is used.

    The same configuration gives the same weights on the same machine, interrupted or
    not, whatever the number of jobs. What comes out is one ONNX file with all that
    agents need to know of it, and a model card beside it. Watch it with
    tensorboard --logdir OUT/tensorboard.

    Exit codes:
      0  trained; judged, unless told not to
      2  the configuration or the data are refused, or an extra is missing
      4  a run failed
      130  interrupted; the same call with --resume goes on

    Example:
      gcos train --config artifact --data world --jobs 2 --out trained
      gcos train --config artifact --data world --jobs 2 --out trained --resume
      gcos train --config artifact --data world --out trained --only-gate
    """
    from gcos.cli.output import Output, has_color  # noqa: PLC0415
    from gcos.errors import InvalidRequestError  # noqa: PLC0415

    invocation = context.find_object(Invocation)
    assert invocation is not None, "main() hands it in"
    out = Output(
        is_quiet=quiet or invocation.options.is_quiet, has_color=has_color(invocation.environ)
    )
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidRequestError(
            f"training needs {', '.join(missing)}, which is not installed",
            field="config",
            hint="pip install 'gcos[train]'",
        )
    # Before torch and numpy read it: workers and this process compute with one thread each.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from gcos.config import load  # noqa: PLC0415
    from testbed.fast.run import compile_ahead, is_compiled  # noqa: PLC0415
    from testbed.processes import JOB_COUNT_MAX  # noqa: PLC0415
    from testbed.training.config import TrainConfig  # noqa: PLC0415
    from testbed.training.run import Training, check_names, device_named  # noqa: PLC0415

    if not 1 <= jobs <= JOB_COUNT_MAX:
        raise InvalidRequestError(f"{jobs} jobs: 1 to {JOB_COUNT_MAX} can be", field="jobs")
    told = load(TrainConfig, _file(config), environ=invocation.environ, overrides={"data": data})
    check_names(told)
    if (gate or only_gate) and told.data is None:
        raise InvalidRequestError(
            "the gate has no weeks to judge by: shipped typical days are alike in all years",
            field="data",
            hint="give --data (gcos data import), or --no-gate",
        )
    training = Training(
        told,
        directory=out_directory,
        is_resumed=resume or only_gate,
        job_count=jobs,
        device=device_named(device),
        tell=out.say,
    )
    try:
        if not is_compiled():
            out.say("compiling the fast core, once for this version: a minute or so")
            compile_ahead()
        if not only_gate:
            training.train()
        if gate or only_gate:
            found = training.judge()
            out.say(f"the gate: {found.why}")
    except KeyboardInterrupt:
        out.say("interrupted; the same call with --resume goes on")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    out.line(str(out_directory / f"{told.part}.onnx"))


def _file(name: str) -> Path:
    """Return the file of a configuration: the shipped one of that name, or the one at that path."""
    if name.endswith(".toml") or "/" in name:
        return Path(name)
    return shipped_config(name)


def shipped_config(part: str) -> Path:
    """Return the shipped configuration that trains a part.

    Raises:
        InvalidRequestError: There is none of that name; the hint names the nearest.
    """
    import difflib  # noqa: PLC0415

    from gcos.errors import InvalidRequestError  # noqa: PLC0415
    from testbed.training.parts import PARTS  # noqa: PLC0415

    if part not in PARTS:
        near = difflib.get_close_matches(part, PARTS, n=1)
        raise InvalidRequestError(
            f"no configuration {part!r} is shipped: there are {', '.join(PARTS)}",
            field="config",
            hint=f"did you mean {near[0]!r}?" if near else "the name of a file ends in .toml",
        )
    return Path(__file__).parent / f"{part}.toml"
