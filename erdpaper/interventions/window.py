"""The span of times within which an intervention acts."""

from dataclasses import dataclass

from erdpaper.sampling import Times
from erdpaper.sampling.base import check_times

# an edge that lies on the grid counts as inside, in whichever way the two were rounded
_EDGE = 1e-9


@dataclass(frozen=True)
class Window:
    """The times low <= t <= high, both edges included; data at 0, noise at 1."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a window that is empty or leaves [0, 1]."""
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"a window must satisfy 0 <= low < high <= 1, got {self.low} and {self.high}"
            )

    def __contains__(self, t: float) -> bool:
        """Whether the time t lies inside."""
        return self.low - _EDGE <= t <= self.high + _EDGE

    def steps(self, times: Times) -> int:
        """How many steps of a sampler's grid begin inside; none raises ValueError."""
        found = sum(t in self for t in check_times(times)[:-1].tolist())
        if found == 0:
            raise ValueError(
                f"no step of the grid begins in the window from {self.low:g} to {self.high:g}"
            )
        return found
