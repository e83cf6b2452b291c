"""How numbers are put into words."""


def counted(number: int, noun: str) -> str:
    """Return ``"1 layer"``, ``"2 layers"``, ``"2,400 layers"``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
