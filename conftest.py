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

# Files are handed out in this order; a long one that starts last would leave a core idle.
_LONGEST = ("test_regimes_other_models", "test_book", "test_project", "test_training_sharded")

_claims_dir = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Workers inherit it. Tests and nbval record here, so the committed results stay.
    _claims_dir = tempfile.mkdtemp(prefix="erdpaper-claims-")
    os.environ["ERDPAPER_CLAIMS_DIR"] = _claims_dir


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first: some files by name, then the notebooks, then all others as they came."""

    def place(item: pytest.Item) -> int:
        if item.path.stem in _LONGEST:
            return _LONGEST.index(item.path.stem)
        return len(_LONGEST) + (item.path.suffix != ".ipynb")

    items.sort(key=place)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _claims_dir is not None:
        shutil.rmtree(_claims_dir, ignore_errors=True)
