"""Files that are replaced as a whole."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write a file so that a reader sees the old contents or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents.encode() if isinstance(contents, str) else contents)
        # mkstemp makes a file private to its owner; a committed file is not
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
