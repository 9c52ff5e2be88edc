import hashlib
from importlib import resources
from pathlib import Path

import pytest

from gcos.accounting import CostScope
from gcos.errors import InvalidRequestError, NotFoundError
from testbed.scenarios import Scenario, load_scenario, scenario_names
from testbed.scenarios.records import gpus_for
from testbed.scenarios.time_zones import TIME_ZONES, zone_time
from testbed.sim.instance import Faults

#: Digests of the files that published results speak of: a changed parameter is a new name.
PUBLISHED = {
    "default.toml": "9aaa50c6ebecea135bad138c3574232527ca32e430d9221df8d972a629b0f225",
    "variants.toml": "122b11c4037b5b0dfeee9c567f489c2e636e508b3206696e6591e365a6b8c223",
    "further.toml": "23a4441f48ac842c4a727b16d90219df9f1f4f4afd84ccb6f2fcf5efad9533db",
}


def written(directory: Path, text: str, name: str = "mine.toml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def site_ids(scenario: Scenario) -> list[str]:
    return [site.id for site in scenario.site]


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_published_files_are_as_they_were(file: str) -> None:
    content = (resources.files("testbed.scenarios") / file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == PUBLISHED[file]


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_can_be_read(name: str) -> None:
    assert load_scenario(name).name == name


def test_the_default_scenario_is_what_its_file_says() -> None:
    found = load_scenario("default")
    assert site_ids(found) == ["cal", "tex", "pjm", "de", "sg", "jp", "br", "on"]
    assert found.hardware["medium"].active_kw == 0.6
    assert found.workload.tuning.slack_h == (6.0, 36.0)
    assert found.workload.penalty_usd.fixed_usd(gpu_h=4.0) == 2.5
    assert found.workload.penalty_usd.per_h_usd(gpu_h=4.0) == 1.0


def test_a_variant_changes_only_what_it_names() -> None:
    default, variant = load_scenario("default"), load_scenario("cache-tenth")
    assert (variant.caches.model_gb, variant.caches.data_gb) == (120, 150)
    for name in Scenario.__dataclass_fields__:
        if name not in {"name", "caches"}:
            assert getattr(variant, name) == getattr(default, name)


def test_tables_are_merged_key_by_key() -> None:
    found = load_scenario("network-stress")
    assert found.network.bandwidth_factor == 0.25
    assert found.network.same_continent_gbps == 4.0
    assert load_scenario("gpu-hours").cost_scope is CostScope.WITH_GPU_HOURS


def test_sites_are_kept_then_added() -> None:
    assert site_ids(load_scenario("clean-zone")) == [
        *("tex", "pjm", "de", "sg", "jp", "on"),
        *("in", "nsw"),
    ]
    assert len(load_scenario("sites-14").site) == 14


def test_twenty_sites_are_those_of_fourteen_and_six_in_the_same_zones_with_other_hardware() -> None:
    fewer, found = load_scenario("sites-14"), load_scenario("sites-20")
    assert len(found.site) == 20
    assert found.site[:14] == fewer.site
    kinds = {(site.zone, site.hardware): site.pue for site in found.site}
    assert len(kinds) == 20
    assert {site.zone for site in found.site[14:]} < {site.zone for site in fewer.site}


def test_a_variant_may_have_another_variant_as_its_base() -> None:
    found = load_scenario("clean-zone-synthetic")
    assert found.signals.flat_carbon_gco2_per_kwh == {"on": 30}
    assert found.carbon_price_usd_per_kg == 2.0
    assert found.workload.load == 0.15


def test_sites_that_join_later_are_not_there_at_the_begin() -> None:
    found = load_scenario("churn")
    assert "gb" not in site_ids(found)
    assert "gb" in [site.id for site in found.all_sites]


def test_a_file_inherits_from_a_shipped_scenario(tmp_path: Path) -> None:
    found = load_scenario(written(tmp_path, 'base = "load-high"\n[caches]\nmodel_gb = 7\n'))
    assert found.name == "mine"
    assert (found.workload.load, found.caches.model_gb, found.caches.data_gb) == (0.85, 7, 1500)


def test_a_file_inherits_from_a_file_beside_it(tmp_path: Path) -> None:
    written(tmp_path, 'base = "default"\nlate_cap_h = 2.0\n', "first.toml")
    found = load_scenario(written(tmp_path, 'name = "named"\nbase = "./first.toml"\n'))
    assert (found.name, found.late_cap_h) == ("named", 2.0)


def test_a_copy_of_the_default_file_is_a_complete_scenario(tmp_path: Path) -> None:
    text = (resources.files("testbed.scenarios") / "default.toml").read_text()
    assert load_scenario(written(tmp_path, text)) == load_scenario("default")


def test_a_file_may_name_what_goes_wrong(tmp_path: Path) -> None:
    found = load_scenario(
        written(tmp_path, 'base = "default"\n[faults]\ncrash_per_h = 0.01\ncorrupt_ratio = 0.02\n')
    )
    assert found.faults == Faults(crash_per_h=0.01, corrupt_ratio=0.02)
    assert load_scenario("default").faults == Faults()


def added(hardware: str = "large", site_id: str = "x", gpus: str = "gpus") -> str:
    site = f'id = "{site_id}", zone = "DE", hardware = "{hardware}", {gpus} = 8, pue = 1.1'
    return f"add_sites = [{{ {site} }}]"


FLAT = "signals.flat_carbon_gco2_per_kwh"
REFUSED = [
    ("[workload]\nlod = 0.4", "workload.lod", "load"),
    ("[workload.short]\nshare = 0.4", "workload", "sum to 0.95"),
    ("[workload]\nload = nan", "workload.load", "finite"),
    ("[workload]\nload = -0.1", "workload.load", "below 0"),
    ("[workload]\nwork_clip_h = [2.0, 1.0]", "workload.work_clip_h", "no range"),
    ('[workload]\ngpus = "four"', "workload.gpus", "not a rule"),
    ('[workload.penalty_usd]\nfixed = "a lot"', "workload.penalty_usd.fixed", "GPU hours"),
    ("[caches]\nmodel_gb = inf", "caches.model_gb", "finite"),
    ("[network]\nbandwidth_factor = 0.0", "network.bandwidth_factor", "not above 0"),
    ('keep_sites = ["cal", "dee"]', "keep_sites", "'de'"),
    (added(site_id="de"), "site.id", "twice"),
    (added(site_id="DE"), "site.id", "lower case"),
    (added(hardware="lage"), "site.hardware", "'large'"),
    (added(gpus="gpu"), "site", "gpus"),
    ("[signals]\nflat_carbon_gco2_per_kwh = { oslo = 3 }", FLAT, "oslo"),
    ('events = [{ at_h = 3, join = "de" }]', "events.join", "has left"),
    ('events = [{ at_h = 3, leave = "de", join = "sg" }]', "events", "exactly one"),
    ('events = [{ at_h = 9, leave = "de" }, { at_h = 3, join = "de" }]', "events.at_h", "sort"),
    ("warmup_h = 1.5", "warmup_h", "expected `int`"),
    ('cost_scope = "everything"', "cost_scope", "invalid enum"),
    ('[catalogue]\nmodel_gb = "big"', "catalogue.model_gb", "expected `array`"),
    ("keep_sites = 3", "keep_sites", "list"),
    ("[faults]\nmessage_loss = 0.1", "faults.message_loss", "message_loss_ratio"),
    ("[faults]\nmessage_loss_ratio = 1.0", "faults.message_loss_ratio", "above 0.9"),
    ("[faults]\ncorrupt_ratio = -0.1", "faults.corrupt_ratio", "below 0"),
    ("[faults]\nmessage_delay_s = nan", "faults.message_delay_s", "finite"),
    ("[faults]\ncrash_per_h = 2.0", "faults.crash_per_h", "above 1"),
]


@pytest.mark.parametrize(("text", "field", "words"), REFUSED)
def test_what_cannot_be_is_refused_with_file_and_key(
    tmp_path: Path, text: str, field: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        load_scenario(written(tmp_path, f'base = "default"\n{text}\n'))
    assert "mine.toml" in caught.value.message
    assert caught.value.field.startswith(field)
    assert words in str(caught.value)


def test_tasks_that_no_site_could_run_are_refused(tmp_path: Path) -> None:
    small = "\n".join(
        f'[[site]]\nid = "s{i}"\nzone = "DE"\nhardware = "large"\ngpus = 4\npue = 1.1'
        for i in range(2)
    )
    with pytest.raises(InvalidRequestError, match=r"need up to 8 GPUs .*810 GB.* has 4"):
        load_scenario(written(tmp_path, f'base = "default"\n{small}\n'))


def test_an_incomplete_file_says_how_to_inherit(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match='base = "default"') as caught:
        load_scenario(written(tmp_path, "late_cap_h = 1.0\n"))
    assert "mine.toml" in caught.value.message


def test_a_circle_of_bases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="own base"):
        load_scenario(written(tmp_path, 'base = "./mine.toml"\n'))


def test_no_toml_and_no_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no TOML"):
        load_scenario(written(tmp_path, "= 3"))
    with pytest.raises(NotFoundError, match="does not exist"):
        load_scenario(str(tmp_path / "none.toml"))
    with pytest.raises(NotFoundError, match="did you mean 'cache-tenth'"):
        load_scenario("cache-tent")


@pytest.mark.parametrize(
    ("model_gb", "gpus"), [(1.3, 1), (60.8, 1), (60.9, 2), (142, 4), (404, 8), (810, 8)]
)
def test_gpus_hold_the_model_with_room_to_spare(model_gb: float, gpus: int) -> None:
    assert gpus_for(model_gb) == gpus


def test_every_zone_has_a_time_zone_and_others_must_be_told() -> None:
    assert {zone_time(zone).key for zone in TIME_ZONES} == set(TIME_ZONES.values())
    with pytest.raises(InvalidRequestError, match="timezone = "):
        zone_time("IT")
    assert zone_time("IT", "Europe/Rome").key == "Europe/Rome"
    with pytest.raises(InvalidRequestError, match="no time zone"):
        zone_time("IT", "Europe/Atlantis")
