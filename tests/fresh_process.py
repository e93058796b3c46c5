"""What accelerate keeps in a process and in its environment, forgotten around a test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.state import AcceleratorState


@contextmanager
def fresh_process() -> Iterator[None]:
    """Inside, a process in which no accelerator was made; afterwards, again."""
    started = set(os.environ)
    AcceleratorState._reset_state(True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(True)
        for name in os.environ.keys() - started:
            del os.environ[name]
