"""The charts are well-formed and to scale."""

import math
import re
import xml.etree.ElementTree as xml

from hypothesis import given
from hypothesis import strategies as st

from raceline.loop.plots import Bar, Line, bars, lines, log_ticks, ticks

positive = st.floats(1e-9, 1e9, allow_nan=False)


def test_bars_are_to_scale_and_escape_their_text():
    drawing = xml.fromstring(bars([Bar("a <b>", 2.0, "2 & up"), Bar("c", 1.0, "1")], title="t"))
    widths = [float(r.get("width")) for r in drawing.iter("rect")]
    assert math.isclose(widths[0], 2 * widths[1], rel_tol=1e-3)
    assert "a <b>" in [t.text for t in drawing.iter("text")]


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=20), st.booleans())
def test_lines_stay_inside_the_frame(points, log_x):
    drawing = xml.fromstring(lines([Line("a", points)], title="t", x_label="x", y_label="y", log_x=log_x))
    corners = re.findall(r"[-\d.]+", drawing.find("polyline").get("points"))
    xs, ys = [float(c) for c in corners[::2]], [float(c) for c in corners[1::2]]
    assert all(60 <= x <= 640 for x in xs) and all(0 <= y <= 232 for y in ys)


def test_no_points_draw_nothing():
    assert lines([], title="t", x_label="x", y_label="y") == ""


@given(positive)
def test_ticks_are_round_few_and_inside(high):
    found = ticks(0.0, high)
    assert found[0] == 0 and found[-1] <= high * (1 + 1e-6) and 2 <= len(found) <= 11


def test_log_ticks_are_few():
    assert log_ticks(1, 50) == [1, 2, 5, 10, 20, 50]
    assert len(log_ticks(1e-3, 1e6)) <= 10
