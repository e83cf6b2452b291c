"""How numbers and names are put into words."""

from collections.abc import Iterable, Sequence


def counted(number: int, noun: str) -> str:
    """Return ``"1 layer"``, ``"2 layers"``, ``"2,400 layers"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def brief(number: float) -> str:
    """Return a number of at least 0 with two digits or more, as ``"0.79"``, ``"4.8"``, ``"1,235"``."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.2g}"


def listed(names: Sequence[str]) -> str:
    """Return ``"a, b, c"``, of more than three ``"a, b, c and others"``."""
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def one_line(text: str) -> str:
    """Return `text` with a space for each character that would end the line or steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def escaped(text: str) -> str:
    """Return `text` with an escape for each character that would end the line or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def steps(first: int, last: int, between: str = " to ") -> str:
    """Return ``"step 7"`` or ``"steps 0 to 560"``."""
    return f"step {first}" if first == last else f"steps {first}{between}{last}"


def suggestion(name: str, known: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """Return ``did you mean …?`` with the nearest of what is `known`, or what to say `otherwise`.

    `cutoff` is how alike they have to be, from 0 for anything to 1 for the same.
    """
    import difflib  # where something was misspelt, and nowhere else

    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {nearest[0]}?" if nearest else otherwise
