"""Layout of the labels of points in a chart, without overlaps with each other or with marks.

A chart in a browser is as wide as its window, so a label is placed where it is free at several widths.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
REACH, LEADER = (
    120,
    2.0,
)  # pixels: how far a label may be from its mark, half of its line's thickness


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


class Scene(NamedTuple):
    """A chart at one size: its points and what else it shows, in pixels from its lower left corner.

    obstacles: what neither labels nor lines to them may cover, such as other texts. thin: what lines may
    cross, such as error bars. faint: what a label covers only where it has no other room.
    """

    width: float
    height: float
    points: Sequence[tuple[float, float]]
    obstacles: Sequence[Box] = ()
    thin: Sequence[Box] = ()
    faint: Sequence[Box] = ()

    @property
    def marks(self) -> list[Box]:
        """The rectangles of the points' marks."""
        return [mark_box(*point) for point in self.points]


class Placement(NamedTuple):
    """Where the label of a point is: the centre of its text, in pixels to the right and up of the point.

    position: the name in POSITIONS of a place next to the mark; None where a line leads to the label.
    """

    right: float
    up: float
    position: str | None


class Spot(NamedTuple):
    """Where a text is that belongs to no point: its share of the free width is left of it.

    bottom: of the text, in pixels from the bottom of the chart.
    """

    share: float
    bottom: float

    def box(self, text: str, width: float) -> Box:
        """Return the rectangle of the text in a chart of this width."""
        length = CHARACTER * len(text)
        left = self.share * (width - length)
        return Box(left, self.bottom, left + length, self.bottom + LINE)


def mark_box(x: float, y: float) -> Box:
    """Return the rectangle of the mark of a point."""
    return Box(x - MARK, y - MARK, x + MARK, y + MARK)


def line_boxes(start: tuple[float, float], end: tuple[float, float], half: float) -> Iterator[Box]:
    """Yield rectangles that cover a line between two points; half: of its thickness."""
    steps = max(1, math.ceil(math.dist(start, end) / (2 * half)))
    for step in range(steps + 1):
        x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
        yield Box(x - half, y - half, x + half, y + half)


def placed_box(x: float, y: float, text: str, placement: Placement) -> Box:
    """Return the rectangle of the label of the point (x, y)."""
    half = CHARACTER * len(text) / 2
    middle_x, middle_y = x + placement.right, y + placement.up
    return Box(middle_x - half, middle_y - LINE / 2, middle_x + half, middle_y + LINE / 2)


def leader(
    x: float, y: float, text: str, placement: Placement
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ends of the line from the mark of the point (x, y) to its label.

    It points to the centre of the text, and ends where the text begins.
    """
    length = math.hypot(placement.right, placement.up)
    half_width, half_height = CHARACTER * len(text) / 2, LINE / 2
    inside = min(
        half / abs(offset) if offset else math.inf
        for half, offset in ((half_width, placement.right), (half_height, placement.up))
    )
    begin, end = MARK / length, max(1 - inside, MARK / length)
    return (
        (x + begin * placement.right, y + begin * placement.up),
        (x + end * placement.right, y + end * placement.up),
    )


def place_labels(scenes: Sequence[Scene], texts: Sequence[str]) -> list[Placement | None]:
    """Return where each label is, the same at all sizes; None for those that have no room.

    scenes: the chart at each size, with the same points. Labels that come first are placed first:
    next to their marks, and then those without room there at the end of a line.
    """
    canvases = [_Canvas(scene, scene.marks, list(scene.obstacles)) for scene in scenes]
    placed: list[Placement | None] = [None] * len(texts)
    for places in (_places_next_to_mark, _places_with_line):
        for number, text in enumerate(texts):
            if placed[number] is None:
                placed[number] = _place_label(canvases, number, text, places(text))
    return placed


def _places_next_to_mark(text: str) -> list[Placement]:
    half = CHARACTER * len(text) / 2
    return [
        Placement(right * (MARK + half), up * (MARK + LINE / 2), name)
        for name, (right, up) in POSITIONS.items()
    ]


def _places_with_line(text: str) -> list[Placement]:
    """Return places of a label away from its mark, those with the shortest lines first."""
    places = [
        Placement(right, up, None)
        for right in range(-REACH, REACH + 1, 10)
        for up in range(-REACH, REACH + 1, 6)
        if not placed_box(0, 0, text, Placement(right, up, None)).meets(mark_box(0, 0))
    ]
    return sorted(places, key=lambda place: math.dist(*leader(0, 0, text, place)))


@dataclass
class _Canvas:
    """A chart at one size while its labels are placed. texts: those so far, and lines to them."""

    scene: Scene
    marks: list[Box]
    texts: list[Box]

    def has_room(self, number: int, text: str, placement: Placement, *, avoids_faint: bool) -> bool:
        scene, point = self.scene, self.scene.points[number]
        box = placed_box(*point, text, placement)
        covered = [*self.marks, *self.texts, *scene.thin, *(scene.faint if avoids_faint else ())]
        if not _is_free(box, scene.width, scene.height, covered):
            return False
        if placement.position is not None:
            return True
        others = [*self.marks[:number], *self.marks[number + 1 :], *self.texts]
        line = line_boxes(*leader(*point, text, placement), half=LEADER)
        return not any(piece.meets(other) for piece in line for other in others)

    def add(self, number: int, text: str, placement: Placement) -> None:
        point = self.scene.points[number]
        self.texts.append(placed_box(*point, text, placement))
        if placement.position is None:
            self.texts += line_boxes(*leader(*point, text, placement), half=LEADER)


def _place_label(
    canvases: Sequence[_Canvas], number: int, text: str, places: Sequence[Placement]
) -> Placement | None:
    """Place the label of a point at the first place that is free at all sizes, if there is one."""
    for avoids_faint in (True, False):
        for place in places:
            if all(
                canvas.has_room(number, text, place, avoids_faint=avoids_faint)
                for canvas in canvases
            ):
                for canvas in canvases:
                    canvas.add(number, text, place)
                return place
    return None


def place_on_line(scenes: Sequence[Scene], text: str, height: float) -> Spot | None:
    """Return the leftmost free place of a text next to a horizontal line, None without room.

    height: of the line, in pixels from the bottom. The text is just below the line, or just above it.
    """
    bottoms = (height - LINE - 1, height + 1)
    return _first_free_spot(
        scenes, text, (Spot(step / 20, bottom) for step in range(21) for bottom in bottoms)
    )


def place_in_corner(scenes: Sequence[Scene], text: str) -> Spot | None:
    """Return the lowest free place of a text at the right or left border, None without room."""
    top = min(scene.height for scene in scenes)
    spots = (
        Spot(share, float(bottom))
        for bottom in range(0, int(top - LINE) + 1, 5)
        for share in (1.0, 0.0)
    )
    return _first_free_spot(scenes, text, spots)


def _first_free_spot(scenes: Sequence[Scene], text: str, spots: Iterable[Spot]) -> Spot | None:
    def is_free(spot: Spot) -> bool:
        return all(
            _is_free(
                spot.box(text, scene.width),
                scene.width,
                scene.height,
                [*scene.marks, *scene.obstacles, *scene.thin, *scene.faint],
            )
            for scene in scenes
        )

    return next(filter(is_free, spots), None)


def _is_free(box: Box, width: float, height: float, obstacles: Sequence[Box]) -> bool:
    inside = box.left >= 0 and box.right <= width and box.bottom >= 0 and box.top <= height
    return inside and not any(box.meets(other) for other in obstacles)
