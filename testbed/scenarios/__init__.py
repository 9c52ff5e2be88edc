"""Scenarios: named TOML files that say which world and which workload policies are compared in.

`default.toml`, `variants.toml` and `further.toml` are the shipped ones; README.md documents every
parameter. A file of your own has the same form and inherits with `base = "default"`.
"""

from testbed.scenarios.files import load_scenario, scenario_names
from testbed.scenarios.records import Scenario

__all__ = ["Scenario", "load_scenario", "scenario_names"]
