"""The page is whole, loads nothing, and says what the evaluations say."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import testbed.report
from gcos import codec
from gcos.cli.main import main
from gcos.errors import GcosError, InvalidRequestError, NotFoundError
from testbed.evaluation import (
    SWEEP_SCHEMA,
    Evaluation,
    Evaluations,
    RunBound,
    evaluation,
    joint_usd,
)
from testbed.paper import FIGURES, PaperTable, row
from testbed.paper import SCHEMA as PAPER_SCHEMA
from testbed.report.findings import mean_losses, savings
from testbed.report.fronts import front, sweeps
from testbed.report.page import report_page
from testbed.report.sources import Sources, read_placements, read_sources
from testbed.sim.run import simulate
from testbed.sim.samples import Sample, instance_of

Make = Callable[..., Evaluation]

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in its order, every id is there once."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables: dict[str, list[list[str | float]]] = {}
        self._table: list[list[str | float]] | None = None
        self._cell: list[str] | None = None
        self._value: float | None = None
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute of {tag} is there twice"
        if tag not in VOID:
            self.open.append(tag)
        self._note(given)
        if tag == "table":
            self._table = self.tables.setdefault(str(given["id"]), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in {"td", "th"}:
            self._cell = []
            value = given.get("data-value")
            self._value = None if value is None else float(value)
        elif tag == "svg":
            self.images.append(given)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed out of its order"
        if tag in {"td", "th"} and self._table is not None:
            text = "".join(self._cell or [])
            self._table[-1].append(text if self._value is None else self._value)

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def _note(self, given: dict[str, str | None]) -> None:
        if given.get("id"):
            self.ids.append(str(given["id"]))
        for name in ("href", "xlink:href", "src", "data", "action", "poster", "srcset"):
            if given.get(name):
                self.links.append(str(given[name]))

    def column(self, table: str, heading: str) -> list[str | float]:
        head, *body = self.tables[table]
        return [each[head.index(heading)] for each in body]


@pytest.fixture
def swept(make: Make) -> Sources:
    return Sources(tuple(make(carbon_price=price) for price in (0.2, 0.0, 1.0)), ())


@pytest.fixture
def text(swept: Sources) -> str:
    return report_page(swept, ())


def test_the_page_is_whole_and_loads_nothing(text: str) -> None:
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(page.ids) == len(set(page.ids)), "ids are unique"
    assert page.links
    for link in page.links:
        assert link.startswith("#"), f"{link} would be loaded"
        assert link[1:] in page.ids, f"{link} leads nowhere"
    for used in re.findall(r"url\(([^)]*)\)", text):
        assert used[1:] in page.ids
    assert text.count("<style") == 1, "a style inside an image would hold for the page"
    assert not re.search(r"<(script|link|img|iframe|object)|@import|@font-face", text)
    names = re.findall(r'"(https?://[^"]*)"', text)
    assert set(names) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_every_image_has_words_for_it(text: str) -> None:
    images = Page(text).images
    assert len(images) >= 6
    for image in images:
        assert image["role"] == "img"
        assert len(str(image["aria-label"])) > 30
        assert "viewbox" in image


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_text_and_plots_stand_out_in_light_and_dark(text: str) -> None:
    sets = re.findall(r":root\{([^}]*)\}", text)
    assert len(sets) == 2
    for found in sets:
        colors = dict(re.findall(r"--(\w+):(#\w{6})", found))
        assert len(colors) == 14
        paper = luminance(colors["paper"])
        for name, color in colors.items():
            light, dark = sorted((paper, luminance(color)), reverse=True)
            contrast = (light + 0.05) / (dark + 0.05)
            if name in {"ink", "soft", "bad", "s0"}:
                assert contrast >= 4.5, name
            elif name.startswith("s") and name != "shade":
                assert contrast >= 3.0, name


def test_text_from_outside_is_escaped(text: str) -> None:
    assert "a note with &lt;b&gt;markup&lt;/b&gt;" in text


def test_the_same_sources_make_the_same_page(swept: Sources, text: str) -> None:
    assert report_page(swept, ()) == text


def test_figures_are_those_of_the_json(swept: Sources, text: str) -> None:
    page, found = Page(text), swept.evaluations[0]
    document = json.loads(codec.encode(found))
    policies = document["policies"]
    for heading, key in (
        ("J, $", "joint_usd"),
        ("cost, $", "cost_usd"),
        ("cost without penalty, $", "cost_without_penalty_usd"),
        ("carbon, kg", "carbon_kg"),
    ):
        assert page.column("policies-table", heading) == [each[key]["mean"] for each in policies]
    for heading, key in (
        ("egress, $", "transfer_usd"),
        ("electricity, $", "energy_usd"),
        ("compute, kg", "compute_kg"),
        ("idle, kWh", "idle_kwh"),
    ):
        assert page.column("parts-table", heading) == [each[key] for each in policies]
    assert page.column("policies-table", "J against joint") == [
        "it is the baseline",
        *(each["joint_vs_baseline"]["relative_percent"]["mean"] for each in policies[1:]),
    ]
    late = page.column("policies-table", "late, % of tasks")
    assert late == pytest.approx([each["late_percent"] for each in policies])
    hits = page.column("caches-table", "model hits, %")
    assert hits == pytest.approx([each["model_hit_percent"] for each in policies])


def test_what_is_computed_here_is_shown_whole(swept: Sources, text: str) -> None:
    page, found = Page(text), swept.evaluations[0]
    rows = savings(found, "joint")
    assert page.column("savings-table", "saving") == [
        each.percent.mean for each in rows if each.percent is not None
    ]
    losses = mean_losses(found, "joint")
    assert page.column("losses-table", "loss") == [each.percent for each in losses]
    assert losses
    (sweep,) = sweeps(found, swept.evaluations[1:])
    points = front(sweep).points
    assert page.column("front-table", "cost, $") == [each.cost_usd for each in points]
    volumes = front(sweep).hypervolume_percent
    assert page.column("volume-table", "hypervolume") == sorted(volumes.values(), reverse=True)
    assert page.column("sweep-table-0", "0.200") == [each.joint_usd.mean for each in found.policies]


def test_every_table_with_a_percentage_names_baseline_scope_and_spread(text: str) -> None:
    captions = dict(re.findall(r'<table id="([^"]*)"><caption>(.*?)</caption>', text))
    assert len(captions) > 6
    for name in ("policies-table", "savings-table", "losses-table", "front-table"):
        assert "cost scope operator: electricity, egress, penalty and storage" in captions[name]
    assert "against joint" in captions["policies-table"]
    assert "against the policy of the row" in captions["savings-table"]
    for name in ("policies-table", "savings-table"):
        assert "95 % interval, weeks resampled as blocks" in captions[name]
    for name, caption in captions.items():
        table = text[text.index(f'<table id="{name}">') :].partition("</table>")[0]
        if " %" in table.partition("</caption>")[2] or ", %" in table:
            assert re.search("spread|interval|deviation", caption), name
            assert re.search("baseline|against", caption), name
            assert re.search("scope", caption), name


def test_what_was_not_computed_is_said(make: Make) -> None:
    text = report_page(Sources((make(("joint",)),), ()), ())
    for words in (
        "Not computed: these evaluations hold no lower bound",
        "Not computed: name evaluations of the same runs at other carbon prices",
        "Not computed: name exported runs with --placements",
        "There is no other policy to compare with.",
        "None was named that is not shown above.",
    ):
        assert words in text


def test_bounds_are_shown_where_they_are(make: Make) -> None:
    found = make(("joint", "locality"))
    bounds = tuple(
        RunBound(run.week_start_s, run.seed, bound_usd=joint_usd(run) / 4)
        for run in found.runs
        if run.policy == "joint"
    )
    page = Page(report_page(Sources((replace(found, bounds=bounds),), ()), ()))
    assert page.column("bounds-table", "J / lower bound")[0] == pytest.approx(4.0)
    assert page.column("bounds-table", "J / clairvoyant search") == ["not computed"] * 2


def test_one_week_is_said_to_give_no_interval(make: Make) -> None:
    text = report_page(Sources((make(seeds=1),), ()), ())
    assert "one run: no spread is known" in text
    assert "One week gives no interval" in text
    assert "Intervals of 2 weeks are narrower" in report_page(Sources((make(),), ()), ())


def test_the_papers_table_comes_with_its_sentences(make: Make) -> None:
    bare, full = make(("joint",)), make(("joint", "locality"))
    rows = tuple(row(bare, full, "joint", figure) for figure in FIGURES)
    paper = PaperTable(PAPER_SCHEMA, rows, (bare, full))
    text = report_page(Sources((full, bare), (paper,)), ())
    assert Page(text).column("paper-table", "the paper states") == [92.6, 92.6, 90.3]
    assert "without any cache" in text


def test_placements_are_those_of_the_exported_run(tmp_path: Path, make: Make) -> None:
    sample = instance_of(Sample(task_count=60))
    result = simulate(sample, policy="joint", log=tmp_path)
    record = replace(make(("joint",)).runs[0], result=result)
    (tmp_path / "run.json").write_bytes(codec.encode(record))
    (found,) = read_placements(tmp_path)
    begin_s, end_s = sample.measured_s
    busy_gpu_h = sum(float(site.busy_count.sum()) for site in found.sites)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    first_h, last_h = (int((each - sample.start_s) / 3600) for each in (begin_s, end_s))
    gpus = {task.task_id: task.gpu_count for task in sample.tasks}
    inside = sum(
        gpus[line["task"]] * max(0.0, min(line["t1"], last_h) - max(line["t0"], first_h))
        for line in lines
        if line["e"] == "run"
    )
    assert busy_gpu_h == pytest.approx(inside)
    assert all(np.all(site.busy_count <= site.gpu_count + 1e-9) for site in found.sites)
    page = Page(report_page(Sources((make(("joint",)),), ()), [found]))
    assert any("Mean use and intensity by site" in str(i["aria-label"]) for i in page.images)


def test_files_directories_and_sweeps_are_read(tmp_path: Path, make: Make) -> None:
    one, two = make(), make(carbon_price=1.0)
    file, sweep, out = tmp_path / "one.json", tmp_path / "sweep.json", tmp_path / "out"
    file.write_bytes(codec.encode(one))
    sweep.write_bytes(codec.encode(Evaluations(SWEEP_SCHEMA, (one, two))))
    (out / "evaluations").mkdir(parents=True)
    (out / "evaluations" / "two.json").write_bytes(codec.encode(two))
    assert read_sources([file]).evaluations == (one,)
    assert read_sources([file, sweep, out]).evaluations == (one, two)


def test_bounds_join_the_evaluation_they_belong_to(tmp_path: Path, make: Make) -> None:
    one = make(("joint",))
    run = one.runs[0]
    document = {
        "schema": "gcos/bound/v1",
        "scenario": one.scenario,
        "cache_mode": one.cache_mode,
        "cost_scope": one.cost_scope.value,
        "carbon_price_usd_per_kg": one.carbon_price_usd_per_kg,
        "data": one.data,
        "runs": [
            {
                "week_start_s": run.week_start_s,
                "seed": run.seed,
                "bound": {"bound_usd": joint_usd(run) / 5, "search_usd": joint_usd(run) / 2},
            }
        ],
    }
    file, bounds = tmp_path / "one.json", tmp_path / "bounds.json"
    file.write_bytes(codec.encode(one))
    bounds.write_text(json.dumps(document))
    page = Page(report_page(read_sources([file, bounds]), ()))
    assert page.column("bounds-table", "J / lower bound") == [pytest.approx(5.0)]
    assert page.column("bounds-table", "J / clairvoyant search") == [pytest.approx(2.0)]
    bounds.write_text(json.dumps({**document, "carbon_price_usd_per_kg": 9.0}))
    assert read_sources([file, bounds]).evaluations == (one,)
    with pytest.raises(InvalidRequestError, match="bounds alone"):
        read_sources([bounds])


def test_what_cannot_be_read_is_named(tmp_path: Path, make: Make) -> None:
    def refused(name: str, document: bytes, said: str) -> None:
        path = tmp_path / name
        path.write_bytes(document)
        with pytest.raises(GcosError, match=said) as caught:
            read_sources([path])
        assert name in str(caught.value)

    whole = json.loads(codec.encode(make()))
    refused("no.json", b"{", "is no evaluation")
    refused("list.json", b"[]", "is no evaluation")
    refused("other.json", b'{"schema": "gcos/evaluation/v9"}', "has schema 'gcos/evaluation/v9'")
    refused("part.json", json.dumps({**whole, "runs": [1]}).encode(), "cannot be read")
    refused("less.json", json.dumps({**whole, "runs": whole["runs"][1:]}).encode(), "same runs")
    refused("none.json", json.dumps({**whole, "policies": []}).encode(), "same runs")
    with pytest.raises(NotFoundError, match="does not exist"):
        read_sources([tmp_path / "absent.json"])
    with pytest.raises(NotFoundError, match="holds no finished evaluation"):
        read_sources([tmp_path])
    with pytest.raises(InvalidRequestError, match="nothing to report"):
        read_sources([])
    with pytest.raises(NotFoundError, match="holds no exported run"):
        read_placements(tmp_path)
    for name in ("scenario.json", "log.jsonl", "run.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InvalidRequestError, match="is no exported run"):
        read_placements(tmp_path)


def test_the_command_writes_the_page(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    source, page = tmp_path / "one.json", tmp_path / "page.html"
    source.write_bytes(codec.encode(make()))
    assert main(["report", str(source), "--to", str(page), "--subject", "locality"]) == 0
    assert "What locality saves against each policy" in page.read_text()
    assert "wrote" in capsys.readouterr().err
    assert main(["report", str(source), "--subject", "jiont"]) == 2
    assert "jiont is in none of the evaluations" in capsys.readouterr().err
    assert main(["report", str(source), "--to", str(tmp_path / "no" / "page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_without_the_plotting_library_the_command_says_what_to_install(
    tmp_path: Path,
    make: Make,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / "one.json"
    source.write_bytes(codec.encode(make()))
    for name in ("page", "plots", "markup", "details", "verdicts"):
        monkeypatch.delitem(sys.modules, f"testbed.report.{name}")
        monkeypatch.delattr(testbed.report, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(source), "--to", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert "matplotlib" in said
    assert "gcos[research]" in said


def test_a_policy_that_was_better_in_no_metric_loses_nowhere(make: Make) -> None:
    records = make(("joint", "locality")).runs
    text = report_page(Sources((evaluation(records, baseline="joint", data=""),), ()), ())
    assert text.count(": none.") == 3


def test_a_sweep_says_what_the_subject_saves_at_each_value(swept: Sources, text: str) -> None:
    (sweep,) = sweeps(swept.evaluations[0], swept.evaluations[1:])
    page = Page(text)
    for point, heading in zip(sweep.points, ("0", "0.200", "1.00"), strict=True):
        found = [row for row in savings(point.found, "joint") if row.metric.name == "J"]
        assert page.column("sweep-savings-0", heading) == [
            row.percent.mean for row in found if row.percent is not None
        ]
    typed = re.sub(r"<[^>]*>", "", text).splitlines()
    command = "gcos evaluate --policies x --sweep network_kwh_per_gb=0.0065,0.06 --out DIR"
    assert any(command in line for line in typed), "a command is copied as a line of its own"


def test_the_subject_decides_which_evaluation_is_in_the_middle(make: Make) -> None:
    large, small = make(("joint", "locality")), make(("carbon-greedy",), seeds=2)
    text = report_page(Sources((large, small), ()), (), subject="carbon-greedy")
    assert "2 of each policy" in text


def test_several_cache_modes_are_told_apart(make: Make) -> None:
    one = make(("joint", "locality"))
    modes = [
        replace(run, cache_mode="none" if run.policy == "locality" else "dual", policy="joint")
        for run in one.runs
    ]
    names = {"joint": "joint/dual", "locality": "joint/none"}
    found = replace(
        one,
        cache_mode="dual,none",
        runs=tuple(modes),
        policies=tuple(replace(each, policy=names[each.policy]) for each in one.policies),
    )
    page = Page(report_page(Sources((found,), ()), ()))
    assert page.column("savings-table", "baseline") == ["joint/none"] * 3
