"""The paper's toy experiments: networks trained on four Gaussians, measured against exact truth.

`Toy` describes one training, `grid` runs all that notebook 06 keeps, `kept` reads them back.
"""

from erdpaper.toys.spec import LAW, SCHEDULES, Toy, floor_at, lower_half, midpoints

__all__ = ["LAW", "SCHEDULES", "Toy", "floor_at", "lower_half", "midpoints"]
