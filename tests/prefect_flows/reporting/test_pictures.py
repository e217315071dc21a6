"""The pictures are small, whole XML, and name nothing that is markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from prefect_flows.reporting.charts.critical_path import find_critical_path
from prefect_flows.reporting.charts.graph_layout import compute_layout
from prefect_flows.reporting.charts.lineage_diagram import draw_lineage, draw_neighborhood
from prefect_flows.reporting.charts.timeline import draw_timeline
from tests.support.reporting.synthetic import HOSTILE, facts

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("nodes", "most"), [(10, 10_000), (1000, 150_000), (3000, 350_000)])
def test_a_timeline_is_whole_and_small(nodes: int, most: int) -> None:
    given = facts(nodes, threads=8)
    svg = draw_timeline(given.results, given.lineage)
    assert len(svg) < most
    root = ET.fromstring(svg)
    described = root.findtext(f"{SVG}desc")
    assert described is not None
    assert "Critical path" in described
    marked = root.findall(f".//{SVG}rect[@class='bar good critical']")
    assert len(marked) == len(find_critical_path(given.results, given.lineage))


def test_names_stand_only_where_they_fit() -> None:
    few, many = facts(10, failures=False), facts(3000, failures=False)
    assert draw_timeline(few.results, few.lineage).count('class="name') >= 4
    assert draw_timeline(many.results, many.lineage).count('class="name') < 200


def test_neighbours_share_a_bar_and_the_tooltip_counts_them() -> None:
    given = facts(3000, failures=False)
    fine = draw_timeline(given.results, given.lineage)
    coarse = draw_timeline(given.results, given.lineage, sliver=25, tooltips=False)
    assert " nodes: " in fine
    assert len(coarse) < len(fine) / 4
    assert "<title>" not in coarse.split("</style>")[1].split("stage")[0]


def test_more_threads_than_lanes_are_still_drawn() -> None:
    given = facts(400, threads=100)
    root = ET.fromstring(draw_timeline(given.results, given.lineage))
    assert float(root.attrib["height"]) < 700


def test_stages_share_lanes() -> None:
    given = facts(100, threads=4, failures=False)
    root = ET.fromstring(draw_timeline(given.results, given.lineage))
    tops = {bar.attrib["y"] for bar in root.iter(f"{SVG}rect") if "bar" in bar.attrib["class"]}
    assert len(tops) == 4, "the threads of the second stage are others, in the same four lanes"


def test_a_run_that_executed_nothing_has_no_timeline() -> None:
    given = facts(10)
    skipped = [replace(node, started_at=None, completed_at=None) for node in given.results]
    assert draw_timeline(skipped, given.lineage) == ""


def test_names_are_text() -> None:
    given = facts(10)
    hostile = [replace(node, name=HOSTILE + "\x00&") for node in given.results]
    lineage = {i: replace(n, name=HOSTILE + "\x1b") for i, n in given.lineage.items()}
    svg = draw_timeline(hostile, lineage)
    picture = draw_lineage(hostile, lineage)
    assert picture is not None
    for drawn in (svg, picture.svg):
        assert "<script" not in drawn
        assert not list(ET.fromstring(drawn).iter(f"{SVG}script"))


def test_a_small_run_is_drawn_whole() -> None:
    given = facts(10)
    picture = draw_lineage(given.results, given.lineage)
    assert picture is not None
    assert picture.note == "All 6 nodes of the run."
    titles = [title.text for title in ET.fromstring(picture.svg).iter(f"{SVG}title")]
    assert "int_crm__entity_2: model · error · 0.9 s; tests: 1 skipped" in titles
    assert any("stg_crm__entity_1" in (t or "") and "1 error, fail" in (t or "") for t in titles)
    assert not any("not_null" in (t or "") for t in titles), "tests are no boxes of their own"


@pytest.mark.parametrize("nodes", [1000, 3000])
def test_of_a_large_run_that_failed_only_the_failures_are_drawn(nodes: int) -> None:
    given = facts(nodes)
    picture = draw_lineage(given.results, given.lineage)
    assert picture is not None
    assert "left out" in picture.note
    assert 12 < picture.svg.count("<g ") <= 60
    assert "is-failed" in picture.svg
    assert "is-skipped" in picture.svg
    assert len(picture.svg) < 60_000


def test_of_a_large_run_that_passed_the_folders_are_drawn() -> None:
    given = facts(3000, failures=False)
    picture = draw_lineage(given.results, given.lineage)
    assert picture is not None
    assert picture.note == "1,200 models are too many to draw: each box is a folder."
    assert picture.svg.count("<g>") == 27


def test_a_reused_parent_is_drawn_as_reused() -> None:
    given = facts(10)
    executed = [node for node in given.results if node.name == "int_crm__entity_2"]
    parent = given.lineage[executed[0].unique_id].parents[0]
    for reused, status in (({parent}, "reused"), (set(), "not run")):
        picture = draw_lineage(executed, given.lineage, reused)
        assert picture is not None
        titles = [title.text for title in ET.fromstring(picture.svg).iter(f"{SVG}title")]
        assert f"{given.lineage[parent].name}: model · {status}" in titles


def test_a_run_without_nodes_has_no_picture() -> None:
    assert draw_lineage([], facts(10).lineage) is None


def test_parents_stand_left_and_lines_do_not_cross_without_need() -> None:
    places = compute_layout(["a", "b", "c", "d"], {"c": ["b"], "d": ["a"]}).nodes
    assert places["a"].layer < places["d"].layer
    assert (places["a"].row < places["b"].row) == (places["d"].row < places["c"].row)
    assert compute_layout(["a", "b"], {"a": ["b"], "b": ["a"]}).nodes, "a circle ends"


@pytest.mark.parametrize("nodes", [60, 1000])
def test_no_line_runs_behind_a_box(nodes: int) -> None:
    given = facts(nodes)
    picture = draw_lineage(given.results, given.lineage)
    assert picture is not None
    root = ET.fromstring(picture.svg)
    boxes = [
        (float(box.attrib["x"]), float(box.attrib["y"]), float(box.attrib["width"]))
        for box in root.iter(f"{SVG}rect")
        if box.attrib["class"].startswith("box")
    ]
    straight = []  # the parts of lines that cross a column of boxes: from, to, height
    for path in root.iter(f"{SVG}path"):
        for left, height, right in re.findall(r"([\d.]+) ([\d.]+)H([\d.]+)", path.attrib["d"]):
            straight.append((float(left), float(right), float(height)))
    assert straight, "some lines are longer than from one column to the next"
    behind = [
        (line, box)
        for line in straight
        for box in boxes
        if line[0] < box[0] + box[2] and line[1] > box[0] and box[1] < line[2] < box[1] + 40
    ]
    assert behind == []
    # A curve stays in the gap between two columns.
    for path in root.iter(f"{SVG}path"):
        points = re.findall(r"C[\d.]+ [\d.]+ [\d.]+ [\d.]+ ([\d.]+) [\d.]+", path.attrib["d"])
        starts = re.findall(r"(?:M|H)([\d.]+)", path.attrib["d"])
        assert all(0 < float(e) - float(s) <= 56 for s, e in zip(starts, points, strict=True))


def test_the_neighborhood_of_a_failure_is_small() -> None:
    given = facts(1000)
    failed = next(n for n in given.results if n.failed and n.resource_type == "test")
    picture = draw_neighborhood(given.results, given.lineage, failed.unique_id)
    assert picture is not None
    assert 1 < picture.svg.count("<g ") <= 12
    tested = given.lineage[given.lineage[failed.unique_id].parents[0]].name
    assert tested in picture.note
    assert draw_neighborhood(given.results, given.lineage, "model.p.gone") is None
