"""What a download that failed leaves behind: nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def clean(folder: Path) -> Iterator[None]:
    """Directories that were made on the way to a folder are gone again if the block fails and they are empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
