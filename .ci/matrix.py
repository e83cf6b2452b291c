"""Run the fast tests on the oldest and the newest of what pyproject.toml admits, and print how each went.

    python .ci/matrix.py                          all of `CELLS`
    python .ci/matrix.py 3.10:oldest 3.13:newest  some of them

"oldest" is every lower bound of pyproject.toml taken at its word, with the newest of all that it does not name;
"newest" is what pip finds. Each gets a virtual environment of its own, up to 6 GB, which is removed after its run.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
CELLS = ("3.10:oldest", "3.11:newest", "3.12:oldest", "3.12:newest", "3.13:newest")
"""What is run: no more than it takes to meet each Python, and each end of the others' versions twice."""

SHOWN = ("torch", "pytorch-lightning", "tensorboard", "numpy", "rich")
FLOOR = re.compile(r"(?P<name>[\w-]+)(\[.*\])?>=(?P<version>[\d.]+)")
FLOORED_EXTRAS = ("export", "examples", "dev")
TOOLS = ("ipykernel", "jsonargparse", "mypy", "nbclient", "playwright", "pyte", "pytest", "pytest-xdist", "ruff")
"""What only developers need, always the newest: nobody is promised that an old one works."""


class Outcome(NamedTuple):
    """How one cell went: `versions` of what is `SHOWN`, and the last line that pytest printed."""

    cell: str
    versions: Sequence[str]
    told: str
    passed: bool


def floors() -> list[str]:
    """Return the lower bounds of pyproject.toml as pip's constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for extra in FLOORED_EXTRAS for line in project["optional-dependencies"][extra]]
    bounds = [found for line in [*project["dependencies"], *extras] if (found := FLOOR.match(line))]
    return [f"{bound['name']}=={bound['version']}" for bound in bounds if bound["name"] not in TOOLS]


def interpreter(version: str) -> str | None:
    """Return the path of the Python of that `version`, from the search path or among those of pyenv."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(kept[-1]) if kept else shutil.which(f"python{version}")


def run(cell: str, folder: Path, tests: Sequence[str], keep: bool = False) -> Outcome:
    """Install what `cell` asks for under `folder`, and run the `tests`: arguments for pytest."""
    version, _, end = cell.partition(":")
    python, place = interpreter(version), folder / cell.replace(":", "-")
    if python is None:
        return Outcome(cell, ["-"] * len(SHOWN), f"there is no python{version} here", False)
    try:
        return _run(cell, python, place, floors() if end == "oldest" else [], tests)
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def _run(cell: str, python: str, place: Path, constraints: Sequence[str], tests: Sequence[str]) -> Outcome:
    inside, limits = str(place / "bin" / "python"), place.with_name(f"{place.name}.txt")
    place.parent.mkdir(parents=True, exist_ok=True)
    limits.write_text("\n".join(constraints), encoding="utf-8")
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", f"{ROOT}[dev]"]
    if subprocess.run([*install, "--constraint", str(limits)], cwd=place).returncode:
        return Outcome(cell, ["-"] * len(SHOWN), "could not be installed", False)
    told = subprocess.run([inside, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True).stdout
    found = dict(line.partition("==")[::2] for line in told.splitlines())
    done = subprocess.Popen([inside, "-m", "pytest", *tests], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=_alone())
    last = [*_passed_on(done)][-1:]
    versions = [found.get(name, "-") for name in SHOWN]
    return Outcome(cell, versions, (last or ["no test was run"])[0].strip("= "), done.wait() == 0)


def _passed_on(process: "subprocess.Popen[str]") -> Iterator[str]:
    """Yield the lines that `process` prints, and print them."""
    for line in process.stdout or ():
        print(line, end="", flush=True)
        if line.strip():
            yield line.strip()


def _alone() -> dict[str, str]:
    """Return this environment without what would let another installation in."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def main() -> int:
    """Run the cells that the command line names, and print a table of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", default=CELLS, metavar="PYTHON:END", help=f"by default {' '.join(CELLS)}")
    parser.add_argument("--folder", type=Path, default=ROOT / ".matrix", help="where the environments go")
    parser.add_argument("--keep", action="store_true", help="do not remove them")
    parser.add_argument("--tests", default="-m 'not slow' -n 2 -q", help="what pytest is told")
    asked = parser.parse_args()
    outcomes = [run(cell, asked.folder.resolve(), shlex.split(asked.tests), asked.keep) for cell in asked.cells]
    print(f"\n| Python | {' | '.join(SHOWN)} | |\n|---{'|---' * len(SHOWN)}|---|")
    for outcome in outcomes:
        print(f"| {outcome.cell.replace(':', ', ')} | {' | '.join(outcome.versions)} | {outcome.told} |")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
