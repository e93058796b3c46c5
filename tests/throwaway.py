"""A throwaway repository with small notebooks, for the tests of the runner and its command."""

from pathlib import Path

HEAD = """\
---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {display_name: Python 3, language: python, name: python3}
---

# A notebook
"""

PARAMETERS = """\
profile: str = "cpu"  # how much to compute
seed: int = 0  # base seed
device: str = "auto"  # where
scale: float = 1.0  # its own
"""


def cell(code: str, tags: str = "") -> str:
    """One code cell in MyST."""
    options = f":tags: [{tags}]\n\n" if tags else ""
    return f"\n```{{code-cell}} ipython3\n{options}{code.rstrip()}\n```\n"


def repository(root: Path, **notebooks: str) -> Path:
    """Make a repository below root; each keyword names a notebook whose last cell is given."""
    (root / "data").mkdir(parents=True)
    (root / "data" / "claims.yml").write_text("[]\n")
    (root / "data" / "scales.yml").write_text("{}\n")
    (root / "notebooks").mkdir()
    for name, code in notebooks.items():
        source = HEAD + cell(PARAMETERS, "parameters") + cell(code)
        (root / "notebooks" / f"{name.removeprefix('n')}.md").write_text(source)
    return root
