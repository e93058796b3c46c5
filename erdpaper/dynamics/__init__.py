"""Training dynamics along actual runs: what the paper's theorems say, evaluated term by term.

`law` says which noise levels a run follows, `flow` runs it, `terms` evaluates the excess dynamics
[P Thm 3.3], `bounds` integrates the inequalities [P Thm 3.4], `couplings` looks into single samples
[P 5], `modal` works in the eigenbasis of a frozen kernel [P Thm 3.8] and `transport` measures how
far inputs are from pure noise [P Lemma D.1].
"""

from erdpaper.dynamics.law import Law, Samples
from erdpaper.dynamics.terms import Terms

__all__ = ["Law", "Samples", "Terms"]
