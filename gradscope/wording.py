"""How numbers and names are put into words."""


def counted(number: int, noun: str) -> str:
    """Return ``"1 layer"``, ``"2 layers"``, ``"2,400 layers"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def brief(number: float) -> str:
    """Return a number of at least 0 with two digits or more, as ``"0.79"``, ``"4.8"``, ``"1,235"``."""
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.2g}"


def one_line(text: str) -> str:
    """Return `text` with a space for each character that would end the line or steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
