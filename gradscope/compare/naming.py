"""Names for runs from several places: as short as tells them apart."""

import difflib
import os
from collections.abc import Iterable, Sequence
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


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return ``did you mean …?`` with the nearest of what is `known`, or what to say `otherwise`."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {nearest[0]}?" if nearest else otherwise
