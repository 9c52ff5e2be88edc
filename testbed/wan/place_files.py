"""The files of each place of a testbed in containers: its configuration, links, token."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcos import codec
from gcos.rpc.security import write_token
from gcos.system import SystemClock
from testbed.local_plan import pool_of
from testbed.wan.containers import (
    CONFIG_NAME,
    WAN_NAME,
    ContainerPlan,
    process_toml,
    wan_config,
)
from testbed.wan.records import BROKER, PREDICTOR, WanLink

_TOKEN_NAME = "token"  # noqa: S105 - the name of a file


@dataclass(frozen=True, slots=True)
class PlaceSettings:
    """What all places have in common.

    Attributes:
        policy: How sites bid.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        gpu_count: GPUs of each site.
        seed: Of jitter and loss.
    """

    policy: str
    speed: float
    byte_ratio: float
    gpu_count: int
    seed: int = 0


def write_places(
    plan: ContainerPlan,
    homes: Mapping[str, Path],
    settings: PlaceSettings,
    links: Sequence[WanLink],
) -> None:
    """Write the files of all places; the world begins now.

    Args:
        plan: Where everything is.
        homes: Directory of each place, which is there and empty.
        settings: What they have in common.
        links: All directions.
    """
    now_s = SystemClock().wall_s()
    world = {
        "speed": settings.speed,
        "wall_anchor_s": now_s,
        "world_anchor_s": now_s,
        "byte_ratio": settings.byte_ratio,
    }
    token = ""
    for place in plan.places:
        home = homes[place]
        for part in ("data", "artifacts"):
            (home / part).mkdir(mode=0o700)
        if token:
            (home / _TOKEN_NAME).touch(mode=0o600)
            (home / _TOKEN_NAME).write_text(f"{token}\n", encoding="ascii")
        else:
            token = write_token(home / _TOKEN_NAME)
        is_site = place not in {BROKER, PREDICTOR}
        text = process_toml(
            plan,
            place,
            policy=settings.policy,
            world=world,
            pool=pool_of(place, settings.gpu_count) if is_site else {},
        )
        (home / CONFIG_NAME).write_text(text, encoding="utf-8")
        (home / WAN_NAME).write_bytes(codec.encode(wan_config(plan, links, place, settings.seed)))
        if os.getuid() == 0:
            for path in (home, *home.rglob("*")):
                os.chown(path, plan.uid, plan.uid)
