"""Batches drawn before they are needed, so that the network never waits for a disk.

Since a batch depends on its step alone, drawing it earlier and in another thread changes nothing.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_DEPTH = 2


class Ahead:
    """step -> draw(step), with the next few steps drawn in a thread of their own.

    last: no step after it is drawn.  An error of `draw` is raised when its step is asked for.
    """

    def __init__(self, draw: Callable[[int], Any], last: int) -> None:
        self.draw, self.last = draw, last
        self._pending: dict[int, Future[Any]] = {}
        # one thread: `draw` need not be safe to call twice at a time
        self._thread = ThreadPoolExecutor(1, "ahead")

    def __call__(self, step: int) -> Any:
        """The batch of a step; the steps after it are begun."""
        for other in [k for k in self._pending if not step <= k <= step + _DEPTH]:
            self._pending.pop(other).cancel()
        for k in range(step, max(step, min(step + _DEPTH, self.last)) + 1):
            if k not in self._pending:
                self._pending[k] = self._thread.submit(self.draw, k)
        return self._pending.pop(step).result()
