"""What Lightning writes beside the event files of a run: ``hparams.yaml``."""

import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

FILE_NAME = "hparams.yaml"

LARGEST_FILE = 1_000_000
"""Bytes. What is larger holds data and no settings, and a YAML parser takes a minute for ten megabytes."""

MOST_SETTINGS = 10_000


@dataclass(frozen=True)
class Hparams:
    """The settings of a run as they stand in the file, and what is wrong with that file."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """By name, those of a nested mapping or list joined by dots: ``optimizer.betas.0``."""
    note: str = ""
    """Why there are none; empty where the file is sound, or where there is no file."""


def read_hparams(folder: Path) -> Hparams:
    """Return the settings of the run in `folder`; no file is no settings. Nothing in the file makes this raise.

    The file is parsed, but nothing is ever made of its tags: Lightning writes some for tuples and enumerations, and
    others could name any class.
    """
    path = folder / FILE_NAME
    try:
        information = path.stat()
        if not stat.S_ISREG(information.st_mode):
            return Hparams(note=f"{FILE_NAME}: is no file, so it is left out")
        if information.st_size > LARGEST_FILE:
            return Hparams(note=f"{FILE_NAME}: {information.st_size / 1e6:.1f} MB is too large, so it is left out")
        return Hparams(_settings(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Hparams()
    except OSError as error:
        return Hparams(note=f"{FILE_NAME}: could not be read ({error.strerror})")
    except (yaml.YAMLError, ValueError, RecursionError):
        return Hparams(note=f"{FILE_NAME}: is damaged, so it is left out")


def differing(several: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Return the names of settings that are not the same in all, those that some do not have among them."""
    names = dict.fromkeys(name for settings in several for name in settings)
    return tuple(name for name in names if len({settings.get(name) for settings in several}) > 1)


def _settings(text: str) -> dict[str, str]:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("settings are a mapping")
    if not node.value:  # what Lightning writes of a model without any
        return {}
    settings: dict[str, str] = {}
    for name, value in _leaves(node, ""):
        settings[name] = value
        # An alias stands for all that it names: a few lines could make billions.
        if len(settings) > MOST_SETTINGS:
            raise ValueError("too many settings")
    return settings


def _leaves(node: yaml.Node, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.ScalarNode):
        yield name, str(node.value)
        return
    if not node.value:
        yield name, "{}" if isinstance(node, yaml.MappingNode) else "[]"
    pairs = node.value if isinstance(node, yaml.MappingNode) else enumerate(node.value)
    for key, value in pairs:
        part = str(key.value) if isinstance(key, yaml.ScalarNode) else str(key) if isinstance(key, int) else "?"
        yield from _leaves(value, f"{name}.{part}" if name else part)
