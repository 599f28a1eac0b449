"""What caused what: the events of a correlation as a graph in layers, causes above effects. Pure.

`graph` joins events to their causes, of which there may be several, none, or some that nobody saw; `folding` keeps a
graph of thousands to what a person can read, and says what it folded; `drawing` gives it its place.
"""

from __future__ import annotations

from apps.sagas.causation.drawing import Picture, draw
from apps.sagas.causation.folding import Folded, Shown, fold
from apps.sagas.causation.graph import Graph, Node, read_graph

__all__ = ["Folded", "Graph", "Node", "Picture", "Shown", "draw", "fold", "read_graph"]
