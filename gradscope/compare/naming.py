"""Names for runs from several places: as short as tells them apart."""

import os
from collections.abc import Sequence
from pathlib import Path


def short_names(places: Sequence[Path]) -> list[str]:
    """Return for each of `places`, absolute and all different, what stands behind the folder common to them.

    ``/a/b/run_1`` and ``/a/c/run_1`` are ``b/run_1`` and ``c/run_1``; a single place has its own name. Where one lies
    inside another, the names begin with that of the outer one.
    """
    if not places:
        return []
    common = Path(os.path.commonpath([str(place.parent) for place in places]))
    return [place.relative_to(common).as_posix() for place in places]
