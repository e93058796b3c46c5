"""Networks, one file each; all are called model(x, t, label=None) with t in [0, 1]."""

from erdpaper.models.stack import Stack

__all__ = ["Stack"]
