"""Labels of points in a chart: they cover no other label, mark, error bar or border."""

import math

import numpy as np
import pytest

from puma_engine.report.label_layout import (
    LEADER,
    LINE,
    MARK,
    POSITIONS,
    Box,
    Scene,
    Spot,
    leader,
    line_boxes,
    mark_box,
    place_in_corner,
    place_labels,
    place_on_line,
    placed_box,
)


def crowded_scenes(seed, widths):
    """Nine points with error bars in charts of some widths, and their labels."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0, 1, (9, 2))
    texts = ["x" * int(length) for length in rng.integers(3, 18, 9)]
    scenes = []
    for width in widths:
        points = [(x * width, y * 190) for x, y in shares]
        bars = [Box(x - 3, y - 30, x + 3, y + 30) for x, y in points]
        scenes.append(Scene(width, 190.0, points, thin=bars))
    return scenes, texts


@pytest.mark.parametrize("seed", range(20))
def test_placed_labels_and_their_lines_cover_nothing_at_any_width(seed):
    scenes, texts = crowded_scenes(seed, (270.0, 390.0, 640.0))
    placed = place_labels(scenes, texts)
    assert any(label is not None and label.position is None for label in placed)
    for scene in scenes:
        boxes, lines = {}, {}
        for number, (point, text, label) in enumerate(
            zip(scene.points, texts, placed, strict=True)
        ):
            if label is not None:
                boxes[number] = placed_box(*point, text, label)
                if label.position is None:
                    lines[number] = list(line_boxes(*leader(*point, text, label), half=LEADER))
        for number, box in boxes.items():
            assert box.left >= 0 and box.right <= scene.width
            assert box.bottom >= 0 and box.top <= scene.height
            other_boxes = [other for name, other in boxes.items() if name != number]
            assert not any(box.meets(other) for other in [*scene.marks, *scene.thin, *other_boxes])
            marks = [mark for name, mark in enumerate(scene.marks) if name != number]
            for piece in lines.get(number, []):
                assert not any(piece.meets(other) for other in [*marks, *other_boxes])


def test_a_line_goes_from_the_mark_to_the_border_of_the_text():
    text, point = "x" * 10, (100.0, 50.0)
    # There is room for a line next to the mark, but not for a label.
    (label,) = place_labels([Scene(300, 200, [point], thin=[Box(20, 25, 180, 75)])], [text])
    assert label is not None and label.position is None
    start, end = leader(*point, text, label)
    assert math.dist(point, start) == pytest.approx(MARK)
    box = placed_box(*point, text, label)
    assert not mark_box(*point).meets(box)
    assert box.left - 1e-9 <= end[0] <= box.right + 1e-9
    assert box.bottom - 1e-9 <= end[1] <= box.top + 1e-9
    borders = (box.left - end[0], box.right - end[0], box.bottom - end[1], box.top - end[1])
    assert min(map(abs, borders)) == pytest.approx(0, abs=1e-9)


def test_the_first_label_is_placed_and_a_label_too_long_for_the_chart_is_left_out():
    points = [(100.0, 50.0), (102.0, 50.0)]
    first, second = place_labels([Scene(200, 100, points)], ["first", "x" * 60])
    assert first.position == "middle left" and second is None
    (label,) = place_labels([Scene(200, 100, points[:1])], ["one"])
    assert label.position == "middle right"
    (label,) = place_labels([Scene(200, 100, [(195.0, 50.0)])], ["at the border"])
    assert label.position == "middle left"


def test_a_faint_line_is_covered_only_where_there_is_no_other_room():
    point, text = (100.0, 50.0), "a plan"
    (right,) = place_labels([Scene(200, 100, [point])], [text])
    faint = [placed_box(*point, text, right)]
    (label,) = place_labels([Scene(200, 100, [point], faint=faint)], [text])
    assert label.position == "middle left"
    everywhere = [Box(0, 0, 200, 100)]
    (label,) = place_labels([Scene(200, 100, [point], faint=everywhere)], [text])
    assert label == right
    assert place_labels([Scene(200, 100, [point], everywhere)], [text]) == [None]


def test_every_position_is_one_that_plotly_knows():
    import plotly.graph_objects as go

    for position in POSITIONS:
        go.Scatter(textposition=position)


@pytest.mark.parametrize("height", [4.0, 95.0, 187.0])
def test_the_label_of_a_line_is_next_to_it_and_covers_nothing(height):
    bars = [Box(x - 3, 0, x + 3, 190) for x in (20, 60, 300)]
    scene = Scene(380, 190, [], thin=bars)
    spot = place_on_line([scene], "x" * 20, height)
    box = spot.box("x" * 20, 380)
    assert not any(box.meets(bar) for bar in bars)
    assert box.left >= 63 and box.right <= 297 and box.bottom >= 0 and box.top <= 190
    assert min(abs(box.top - height), abs(box.bottom - height)) == 1
    assert box.top - box.bottom == LINE
    assert place_on_line([scene], "x" * 60, height) is None
    # A chart of another width has the bars elsewhere.
    wide = Scene(760, 190, [], thin=[Box(0, 0, 500, 190)])
    assert place_on_line([scene, wide], "x" * 20, height) is None


def test_a_name_without_room_beside_its_line_goes_to_a_border():
    low = Box(200, 0, 380, 40)
    scene = Scene(380, 190, [], [low])
    # The right border is covered, and the left one is free.
    assert place_in_corner([scene], "x" * 20) == Spot(0.0, 0.0)
    spot = place_in_corner([scene], "x" * 40)
    assert spot == Spot(1.0, 40.0) and spot.box("x" * 40, 380) == Box(116, 40, 380, 40 + LINE)
    assert place_in_corner([scene], "x" * 60) is None
