"""Charts of a page: the Pareto front by hand, texts that are no markup, the same bytes for the same numbers."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from nni_plugins.report.curves import Point, draw_accuracy_latency, draw_curves, pareto_front
from nni_plugins.report.html import inline_svg


def points(*figures: tuple[float, float]) -> list[Point]:
    return [Point(str(place), "a", latency, accuracy) for place, (latency, accuracy) in enumerate(figures)]


def test_pareto_front() -> None:
    # 1 is slower than 0 and no better, 2 better than both, 3 as fast as 2 and worse, 4 as good as 2 and slower.
    found = pareto_front(points((1.0, 90.0), (2.0, 90.0), (3.0, 95.0), (3.0, 94.0), (4.0, 95.0)))
    assert [point.label for point in found] == ["0", "2"]
    assert pareto_front([]) == []


def test_texts_are_no_markup() -> None:
    words = "<script>&$x$"
    svg = draw_accuracy_latency([Point(words, words, 1.0, 90.0)])
    drawn = [
        "".join(each.itertext()).strip() for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")
    ]
    assert drawn.count(words) == 2


def test_the_same_numbers_give_the_same_bytes() -> None:
    curves = {"training": [1.0, math.nan, 0.5], "test": [2.0, 1.0, 0.0]}
    svg = draw_curves("Loss", curves, unit="nats")
    assert svg == draw_curves("Loss", curves, unit="nats") != draw_curves("Loss", {"test": curves["test"]}, unit="nats")
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert all(words in texts for words in ("Loss", "nats", "training", "test", "epoch"))


def test_a_picture_inside_a_page_is_bare_and_its_ids_are_its_own() -> None:
    svg = draw_curves("Loss", {"training": [1.0, 0.5]}, unit="nats")
    first, second = (inline_svg(svg, name) for name in ("first", "second"))
    assert first.startswith("<svg ") and "<style" not in first and "<metadata" not in first
    ids = [each.attrib["id"] for each in ElementTree.fromstring(first).iter() if "id" in each.attrib]
    assert ids and all(name.startswith("first-") for name in ids)
    assert first.replace("first-", "second-") == second
    assert all(f'"{name}"' in first for name in ids) and "url(#first-" in first
