"""Pictures of graphs: every layer is there once, edges go down, and whatever the names are, it is good SVG."""

import random
from xml.etree import ElementTree

import dask
import pytest

import wukong
from wukong.planning.drawing import Box, draw

SVG = "{http://www.w3.org/2000/svg}"


def parts(drawing):
    root = ElementTree.fromstring(drawing.svg)
    frames = [each.find(f"{SVG}rect") for each in root.iter(f"{SVG}g")]
    places = [tuple(float(frame.get(name)) for name in ("x", "y", "width", "height")) for frame in frames]
    return root, places, [each for each in root.iter(f"{SVG}path") if each.get("d").count("C")]


def layered(n, seed):
    rng = random.Random(seed)
    return [(rng.randrange(max(0, end - 9), end), end, rng.randint(1, 9)) for end in range(1, n) for _ in range(2)]


@pytest.mark.parametrize("n", [1, 2, 20, 200])
def test_boxes_do_not_overlap_and_are_inside(n):
    root, places, ways = parts(draw([Box(f"layer {i}", ["3 tasks"]) for i in range(n)], layered(n, n)))
    _, _, width, height = map(float, root.get("viewBox").split())
    assert len(places) == n and len(ways) == len(layered(n, n))
    for i, (x, y, wide, tall) in enumerate(places):
        assert x >= 0 and x + wide <= width and y >= 0 and y + tall <= height
        assert not [1 for a, b, *_ in places[:i] if abs(a - x) < wide and abs(b - y) < tall]


def test_what_needs_something_stands_below_it():
    _, places, _ = parts(draw([Box(name) for name in "abcd"], [(2, 0, 1), (0, 1, 1), (2, 1, 1), (3, 1, 1)]))
    y = {name: place[1] for name, place in zip("abcd", places, strict=True)}
    assert y["c"] < y["a"] < y["b"]
    assert y["d"] == y["a"]  # beside the other one that is needed there


def test_layers_that_come_again_are_drawn_too():
    _, places, ways = parts(draw([Box("a"), Box("b")], [(0, 1, 3), (1, 0, 2), (1, 1, 7)]))
    assert (len(places), len(ways)) == (2, 3)
    assert {each.find(f"{SVG}title").text for each in ways} >= {"b to a: 2 edges", "b to b: 7 edges"}


def test_no_name_breaks_the_picture():
    name = "<script>alert('&')</script>\x00\x1b\ud800\uffff " + "long" * 40
    root, _, _ = parts(draw([Box(name, ["<b>"])], []))
    assert not list(root.iter(f"{SVG}script"))
    assert all(len(each.text) < 40 for each in root.iter(f"{SVG}text"))


def test_nothing_is_a_picture_too():
    assert parts(draw([], []))[1] == []


def test_a_job_and_a_plan_draw_themselves(tmp_path):
    with wukong.Client(progress=False) as client:
        work = dask.delayed(sum)([dask.delayed(abs)(n) for n in range(3)])
        planned, _ = client.plan(work).draw(), work.compute()
        ran = client.last_job.draw()
    for each in (planned, ran):
        path = each.save(tmp_path / "graph.svg")
        assert path.read_text("utf-8") == each._repr_svg_() == str(each)
        assert len(parts(each)[1]) == 2
    assert "3 tasks" in ran.svg and "each" in ran.svg
