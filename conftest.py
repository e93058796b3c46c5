"""What every test and every notebook kernel started by nbval runs under, set before any starts."""

import os
import shutil
import tempfile

import hypothesis
import pytest

# Two processes share two cores; a caller may ask for another number of threads.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# A progress bar prints rates, which no two runs share.
os.environ["TQDM_DISABLE"] = "1"

# A loaded machine is slow, not wrong.
hypothesis.settings.register_profile("erdpaper", deadline=None)
hypothesis.settings.load_profile("erdpaper")

_claims_dir = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Workers inherit it. Tests and nbval record here, so the committed results stay.
    _claims_dir = tempfile.mkdtemp(prefix="erdpaper-claims-")
    os.environ["ERDPAPER_CLAIMS_DIR"] = _claims_dir


def pytest_unconfigure(config: pytest.Config) -> None:
    if _claims_dir is not None:
        shutil.rmtree(_claims_dir, ignore_errors=True)
