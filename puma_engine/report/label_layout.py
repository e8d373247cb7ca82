"""Layout of the labels of points in a chart, without overlaps with each other or with marks."""

from collections.abc import Sequence
from typing import NamedTuple

# Plotly's positions of a text, the best first: direction of its centre from the point, x and y.
POSITIONS = {
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top center": (0, 1),
    "bottom center": (0, -1),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
}
CHARACTER, LINE, MARK = 6.6, 13.0, 7.0  # pixels: width of a letter, height, half of a mark


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "Box") -> bool:
        """Say whether two rectangles overlap."""
        apart = (
            self.right <= other.left
            or other.right <= self.left
            or self.top <= other.bottom
            or other.top <= self.bottom
        )
        return not apart


def label_box(x: float, y: float, text: str, position: str) -> Box:
    """Return the rectangle of a text at a position of the point (x, y), in pixels."""
    right, up = POSITIONS[position]
    width = CHARACTER * len(text)
    middle_x = x + right * (MARK + width / 2)
    middle_y = y + up * (MARK + LINE / 2)
    return Box(middle_x - width / 2, middle_y - LINE / 2, middle_x + width / 2, middle_y + LINE / 2)


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    width: float,
    height: float,
    obstacles: Sequence[Box] = (),
    faint: Sequence[Box] = (),
) -> list[str | None]:
    """Return a position of POSITIONS for each label, None for those that have no room.

    points: in pixels from the lower left corner of a chart of this width and height. Labels that come
    first are placed first. obstacles: what else no label may cover, such as error bars. faint: what a
    label covers only where it has no other room.
    """
    occupied = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in points] + list(obstacles)
    placed: list[str | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        boxes = {position: label_box(x, y, text, position) for position in POSITIONS}
        position = next(
            (
                position
                for avoided in (faint, ())
                for position, box in boxes.items()
                if _is_free(box, width, height, [*occupied, *avoided])
            ),
            None,
        )
        if position is not None:
            occupied.append(boxes[position])
        placed.append(position)
    return placed


def place_on_line(
    height: float,
    text: str,
    width: float,
    top: float,
    obstacles: Sequence[Box] = (),
) -> Box | None:
    """Return the leftmost free rectangle of a text next to a horizontal line, None without room.

    height: of the line, in pixels from the bottom of a chart of this width and of the height `top`.
    The text is just below the line, or just above it.
    """
    length = CHARACTER * len(text)
    places = [
        Box(left, bottom, left + length, bottom + LINE)
        for left in range(0, max(0, int(width - length)) + 1, 10)
        for bottom in (height - LINE - 1, height + 1)
    ]
    return _first_free(places, width, top, obstacles)


def place_in_corner(
    text: str, width: float, top: float, obstacles: Sequence[Box] = ()
) -> Box | None:
    """Return the lowest free rectangle of a text at the right or left border, None without room."""
    length = CHARACTER * len(text)
    places = [
        Box(left, bottom, left + length, bottom + LINE)
        for bottom in range(0, int(top - LINE) + 1, 5)
        for left in (width - length, 0.0)
    ]
    return _first_free(places, width, top, obstacles)


def _first_free(
    places: Sequence[Box], width: float, top: float, obstacles: Sequence[Box]
) -> Box | None:
    return next((box for box in places if _is_free(box, width, top, obstacles)), None)


def _is_free(box: Box, width: float, height: float, obstacles: Sequence[Box]) -> bool:
    inside = box.left >= 0 and box.right <= width and box.bottom >= 0 and box.top <= height
    return inside and not any(box.meets(other) for other in obstacles)
