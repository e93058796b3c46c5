"""The times at which a table's network is asked: EDM's grid, moved to the network's own indices.

EDM's grid [P 4] lies between the nodes of a table. A network that was trained on a table knows its
T noise levels only, so each level k = sigma / alpha of the grid is replaced by the nearest of the
table, nearest in k, as EDM does with models of discrete time (Karras et al. 2022, Table 1).
"""

import torch
from torch import Tensor

from erdpaper.sampling import times
from erdpaper.schedules import Discrete, Schedule


def edm(schedule: Schedule, steps: int) -> Tensor:
    """EDM's grid with rho = 7 for a schedule: `steps` levels that fall, then 0; float64.

    The first is that nearest to k = 80, or the table's last; the last before 0 that nearest to
    k = 0.002, or the table's first. Levels with the same nearest index are taken once: a step
    between them would not move. On a schedule without a table nothing is rounded. More steps than
    the table has levels raise ValueError.
    """
    grid = times.karras(schedule, steps)
    if not isinstance(schedule, Discrete):
        return grid
    if steps > schedule.T:
        raise ValueError(f"{schedule} has {schedule.T} levels, too few for {steps} steps")
    index = nearest(schedule, (-schedule.logsnr(grid[:-1]) / 2).exp()).unique_consecutive()
    return torch.cat([schedule.time_at(index), grid[-1:]])


def nearest(schedule: Discrete, k: Tensor) -> Tensor:
    """The index whose sigma / alpha is nearest to each k (N,), of two equally near the lower."""
    levels = schedule.sigma / schedule.alpha  # (T,), rising; inf where alpha is 0
    above = torch.searchsorted(levels, k.double()).clamp(1, schedule.T - 1)
    down, up = k - levels[above - 1], levels[above] - k
    return torch.where(down <= up, above - 1, above)
