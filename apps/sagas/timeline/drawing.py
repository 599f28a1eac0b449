"""What a timeline is made of, ready to be written into SVG attributes. Pure values, no logic but their spelling.

Across, everything is in percent of the plane (`x="12.34%"`), so a page needs no style attribute and can be widened
without a new layout; down, it is in pixels, because rows have known heights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apps.lib.micros import Micros
from apps.sagas.timeline.scale import Fold

if TYPE_CHECKING:
    from apps.sagas.timeline.happenings import HappeningRow

#: Heights in pixels: a row, a row with a second line, the axis of the undo lanes.
ROW, TALL, UNDO_AXIS = 28, 46, 34
#: The same where rows are to be compact: one line each.
COMPACT_ROW, COMPACT_AXIS = 22, 26
#: Rows that are fetched and drawn together; a timeline of more than so many has a height of its own and scrolls in it.
BLOCK_ROWS, LONG = 25, 100


def percent(x: float) -> str:
    """`12.34%`: fine enough for a plane of 10,000 pixels."""
    return f"{x:.2f}%"


@dataclass(frozen=True, slots=True)
class Rect:
    """A part of a bar."""

    css: str
    x: str
    width: str
    y: str = "8"
    height: str = "12"
    rx: str = "2"


@dataclass(frozen=True, slots=True)
class Line:
    """A level line: a back-off, a span of an instance."""

    css: str
    x1: str
    x2: str
    y: str = "14"


@dataclass(frozen=True, slots=True)
class Mark:
    """An icon of the sprite, `dx` pixels right of `x`."""

    icon: str
    css: str
    x: str
    dx: int = 3
    size: int = 12
    y: int = 8


@dataclass(frozen=True, slots=True)
class Label:
    """A few words on the plane."""

    css: str
    x: str
    text: str
    y: str = "18"
    dx: int = 0


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt (or several too close to be told apart): a link to the event that says most about it."""

    event_id: str
    title: str
    #: failed, waiting or "": what the jump keys look for.
    outcome: str
    parts: tuple[Rect, ...]
    ring: Rect
    is_selected: bool = False
    #: Where a failed attempt stops, drawn as a solid edge.
    stop: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One lane. `kind` is step, instance, undo-axis, ghost or owed."""

    key: str
    kind: str
    height: int
    #: The word of its status, which is also its colour class; `icon` is the sprite symbol that goes with it.
    status: str = ""
    icon: str = ""
    service: str = ""
    name: str = ""
    step_id: str = ""
    #: A small word behind the name: pivot, retriable.
    hint: str = ""
    figure: str = ""
    figure_css: str = ""
    note: str = ""
    depth: int = 0
    is_selected: bool = False
    is_inferred: bool = False
    #: Id of the instance it heads, when it can be shut; and whether it is.
    instance_id: str = ""
    is_shut: bool = False
    #: Keys of the connectors that end here.
    ties: str = ""
    #: It is on the critical path.
    is_critical: bool = False
    bars: tuple[Bar, ...] = ()
    rects: tuple[Rect, ...] = ()
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    labels: tuple[Label, ...] = ()
    #: Where the deadline of this open step stands, "" when it has none in view.
    due: str = ""

    @property
    def is_tall(self) -> bool:
        """True when a second line is drawn under the first."""
        return self.height == TALL


@dataclass(frozen=True, slots=True)
class Tie:
    """From the end of what was done down to what undoes it. `css` is "" when undone, owed while it is not.

    `y1` and `y2` are pixels from the top of the block in which it ends; `y1` may lie far above it.
    """

    key: str
    css: str
    x1: str
    x2: str
    y1: float
    y2: float
    #: What it undoes ended outside the window: only its way from the edge is drawn.
    is_cut: bool = False

    @property
    def head(self) -> str:
        """Path of the arrow's head at its end."""
        return f"M-7 {self.y2 - 3.5}l6 3.5-6 3.5z"


@dataclass(frozen=True, slots=True)
class Frame:
    """The ground of an instance inside another."""

    x: str
    width: str
    y: int
    height: int


@dataclass(frozen=True, slots=True)
class AxisTick:
    """A line of the grid; `text` is "" where a label would run into another, `fine` how finely it tells the time."""

    x: str
    text: str
    moment: Micros = 0
    fine: str = ""


@dataclass(frozen=True, slots=True)
class FoldChip:
    """The length of a fold on the axis, and the toggle that opens or shuts it."""

    key: Micros
    #: The middle of the gap, and of the chip, which keeps clear of the chip of now.
    x: str
    chip_x: str
    band_x: str
    band_width: str
    text: str
    half: int
    is_open: bool

    @property
    def width(self) -> int:
        """Width of the chip in pixels."""
        return 2 * self.half


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `first`..`last` (1-based, both in) of the timeline; `rows` is empty while the block is not loaded."""

    number: int
    first: int
    last: int
    height: int
    rows: tuple[Row, ...] = ()
    ties: tuple[Tie, ...] = ()
    is_loaded: bool = False
    failed: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """What is waited for, in words, pinned above the rows. `lead`, `what` and `tail` are read in that order."""

    key: str
    service: str
    name: str
    figure: str
    lead: str
    what: str
    tail: str
    over: str
    is_late: bool
    event_id: str = ""
    rects: tuple[Rect, ...] = ()


@dataclass(frozen=True, slots=True)
class Strip:
    """The whole saga on an even scale. `paths` are (class, path) in a box of 1000 × 46; the rest is in percent."""

    paths: tuple[tuple[str, str], ...]
    ticks: tuple[AxisTick, ...]
    start: Micros
    end: Micros
    left: float
    right: float
    window_x: str
    window_width: str
    window_end: str
    rest_width: str
    now: str
    length: str
    from_text: str
    to_text: str


@dataclass(frozen=True, slots=True)
class Spent:
    """One share of where the time went."""

    css: str
    x: str
    width: str
    length: str
    words: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything that the page draws. `start` to `end` is the window; `whole_*` is the saga."""

    start: Micros
    end: Micros
    whole_start: Micros
    whole_end: Micros
    is_windowed: bool
    is_open: bool
    height: int
    row_count: int
    blocks: tuple[Block, ...]
    ticks: tuple[AxisTick, ...]
    folds: tuple[Fold, ...]
    chips: tuple[FoldChip, ...]
    frames: tuple[Frame, ...]
    pending: tuple[Pending, ...]
    pending_more: int
    strip: Strip
    spent: tuple[Spent, ...]
    #: Percent of the now line and the words of its chip; "" when now is not shown.
    now: str
    now_text: str
    #: The flow's own deadline inside the window.
    deadline: str
    deadline_text: str
    failed: int
    waiting: int
    #: Keys of the first rows with something failed and something waiting, "" when there is none; and their blocks.
    first_failed: str
    first_waiting: str
    #: (moment, percent) of every joint of the scale.
    breaks: tuple[tuple[Micros, float], ...]
    date_text: str
    #: Signals, timers and dead letters, under the lanes.
    happenings: tuple[HappeningRow, ...] = ()
    #: How many steps are on the critical path, where it is asked for.
    critical: int = 0
    loaded: tuple[int, int] = field(default=(0, 0))
    #: The services that steps of the saga name, with how many steps each, the first that had work first.
    services: tuple[tuple[str, int], ...] = ()
    #: Its words stand left of the flow's deadline, as there is no room for them right of it.
    is_deadline_crowded: bool = False
    #: Rows that are left out because they belong to other services than those asked for.
    left_out: int = 0

    @property
    def has_more(self) -> bool:
        """True when some rows are not loaded."""
        return any(not block.is_loaded for block in self.blocks)

    @property
    def is_long(self) -> bool:
        """True when it scrolls in a region of its own."""
        return self.row_count > LONG
