"""The public names, and the walls between modules: what imports what is measured in fresh interpreters."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import gradscope

PACKAGE = Path(gradscope.__file__).parent
HEAVY = {"torch", "pytorch_lightning", "lightning", "rich", "tensorboard", "PIL", "pandas", "pyarrow"}
ROOMS = {
    "torch": {
        *("stats", "probes", "recorder", "transfer", "every_step", "flight", "preflight", "model", "ranks"),
        *("lightning.fit", "lightning.resume"),
    },
    "torch pytorch_lightning tensorboard rich": {
        f"lightning.{name}" for name in ("callback", "trainers", "monitored", "packages", "attached", "resumable")
    },
    "tensorboard": {
        *(
            "events.encoding",
            "events.parsing",
            "events.reading",
            "events.stock",
            "dashboard",
            "lightning.sinks",
            "compare.scalars",
        ),
    },
    "rich": {"report"},
}
"""What may be imported, and the files and folders of the package that may; all others may import none of it."""


def loaded(*modules: str) -> set[str]:
    script = f"import {', '.join(modules)}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def modules_of(allowed: str) -> list[str]:
    paths = [p.relative_to(PACKAGE.parent).with_suffix("") for p in PACKAGE.rglob("*.py") if p.name != "__main__.py"]
    names = [".".join(p.parts).removesuffix(".__init__") for p in paths]
    inside = set().union(*ROOMS.values()) if not allowed else ROOMS[allowed]
    return sorted(name for name in names if is_in(name, inside) == bool(allowed))


def is_in(name: str, rooms: set[str]) -> bool:
    """Say whether the module of that name, or the package around it, is one of `rooms`."""
    _, *parts = name.split(".")
    return not rooms.isdisjoint({".".join(parts[:1]), ".".join(parts[:2])})


@pytest.mark.parametrize("allowed", ["", *ROOMS])
def test_walls_between_modules(allowed: str) -> None:
    modules = modules_of(allowed)
    assert len(modules) >= 1
    seen = HEAVY & loaded(*modules)
    # What may import one of Lightning's packages imports the other where it is installed.
    other_name = {"lightning"} if "pytorch_lightning" in allowed else set()
    assert seen <= ({*allowed.split(), "PIL", *other_name} if allowed else set())
    assert set(allowed.split()[:3]) <= seen, "a wall around what is never imported would hold by itself"


def test_every_module_stands_in_one_room() -> None:
    everything = [name for allowed in ("", *ROOMS) for name in modules_of(allowed)]
    assert len(everything) == len(set(everything)) == sum(p.name != "__main__.py" for p in PACKAGE.rglob("*.py"))


def test_public_names_are_there_and_lazy() -> None:
    assert set(gradscope.__all__) <= set(dir(gradscope))
    assert all(getattr(gradscope, name) is not None for name in gradscope.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'GradScoop'"):
        gradscope.GradScoop  # noqa: B018


def test_the_command_is_installed_and_the_types_are_shipped() -> None:
    (command,) = [e for e in entry_points(group="console_scripts") if e.name == "gradscope"]
    assert command.value == "gradscope.cli:main"
    assert (PACKAGE / "py.typed").exists()
