"""Claims: what the documents say, the number a run measures for it, and the verdict that follows.

`data/claims.yml` states each claim with its cases, comparator and threshold, and `data/scales.yml`
on what a notebook tries them; a notebook calls `record(id, values)`, the comparator returns the
verdict, and the ledger gathers the records.
"""

from erdpaper.claims.entries import Claim, ClaimError, load
from erdpaper.claims.session import Unjudged, begin, record
from erdpaper.claims.verdicts import Verdict

__all__ = ["Claim", "ClaimError", "Unjudged", "Verdict", "begin", "load", "record"]
