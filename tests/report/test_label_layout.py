"""Labels of points in a chart meet neither each other, nor marks, nor error bars, nor the border."""

import numpy as np
import pytest

from puma_engine.report.label_layout import (
    LINE,
    MARK,
    POSITIONS,
    Box,
    label_box,
    place_in_corner,
    place_labels,
    place_on_line,
)


@pytest.mark.parametrize("seed", range(20))
def test_placed_labels_meet_nothing(seed):
    rng = np.random.default_rng(seed)
    points = [tuple(point) for point in rng.uniform(0, 1, (9, 2)) * (380, 190)]
    texts = ["x" * int(length) for length in rng.integers(3, 22, 9)]
    bars = [Box(x - 3, y - 30, x + 3, y + 30) for x, y in points]
    placed = place_labels(points, texts, 380, 190, bars)
    boxes = [
        label_box(*point, text, position)
        for point, text, position in zip(points, texts, placed, strict=True)
        if position is not None
    ]
    assert boxes
    marks = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points]
    for number, box in enumerate(boxes):
        assert box.left >= 0 and box.right <= 380 and box.bottom >= 0 and box.top <= 190
        assert not any(box.meets(other) for other in [*marks, *bars, *boxes[:number]])


def test_a_label_without_room_is_left_out_and_the_first_one_has_its_place():
    points = [(100.0, 50.0), (102.0, 50.0)]
    assert place_labels(points, ["first", "x" * 60], 200, 100)[1] is None
    assert place_labels(points[:1], ["one"], 200, 100) == ["middle right"]
    assert place_labels([(195.0, 50.0)], ["at the border"], 200, 100) == ["middle left"]


def test_a_faint_line_is_covered_only_where_there_is_no_other_room():
    point, text = (100.0, 50.0), "a plan"
    faint = [label_box(*point, text, "middle right")]
    assert place_labels([point], [text], 200, 100, (), faint) == ["middle left"]
    others = [label_box(*point, text, position) for position in POSITIONS]
    assert place_labels([point], [text], 200, 100, (), others) == ["middle right"]
    assert place_labels([point], [text], 200, 100, others) == [None]


def test_every_position_is_one_that_plotly_knows():
    import plotly.graph_objects as go

    for position in POSITIONS:
        go.Scatter(textposition=position)


@pytest.mark.parametrize("height", [4.0, 95.0, 187.0])
def test_the_name_of_a_line_is_inside_beside_it_and_free(height):
    bars = [Box(x - 3, 0, x + 3, 190) for x in (20, 60, 300)]
    box = place_on_line(height, "x" * 20, 380, 190, bars)
    assert box is not None and not any(box.meets(bar) for bar in bars)
    assert box.left >= 63 and box.right <= 297 and box.bottom >= 0 and box.top <= 190
    assert min(abs(box.top - height), abs(box.bottom - height)) == 1
    assert box.top - box.bottom == LINE
    assert place_on_line(height, "x" * 60, 380, 190, bars) is None


def test_a_name_without_room_beside_its_line_goes_to_a_border():
    low = Box(200, 0, 380, 40)
    box = place_in_corner("x" * 20, 380, 190, [low])
    assert box == Box(0, 0, 132, LINE)  # the left border is free where the right one is not
    assert place_in_corner("x" * 40, 380, 190, [low]) == Box(380 - 264, 40, 380, 40 + LINE)
    assert place_in_corner("x" * 60, 380, 190) is None
