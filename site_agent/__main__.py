"""`python -m site_agent --config FILE`: an agent without the command line around it.

For service units and local clusters, since an agent should serve soon after it was started: the
command line brings imports that cost as much as gRPC. Options come from the file and `GCOS_*`.
"""

import gc

gc.disable()  # importing makes garbage of nothing, but collections walk all of it again and again

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402


def main() -> int:
    """Serve until SIGTERM or Ctrl-C and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m site_agent", description=__doc__)
    parser.add_argument("--config", type=Path, help="configuration file, TOML")
    arguments = parser.parse_args()
    from site_agent.process import serve  # noqa: PLC0415  not before the options are known good

    return serve(arguments.config, {})


if __name__ == "__main__":
    sys.exit(main())
