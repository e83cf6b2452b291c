"""Runs side by side, and where they part."""
