"""Whether runs are sound, for programs that ask."""
