"""erdpaper: exact computations behind two documents on diffusion models.

Conventions used everywhere: x_t = alpha x_0 + sigma eps with eps ~ N(0, I); time t in [0, 1] runs
from clean data (0) to noise (1); log-SNR is log(alpha^2 / sigma^2). Numbers in brackets in
docstrings are the documents' own: [P ...] the ERD paper, [T ...] the thesis.
"""

__version__ = "0.1.0"
