"""Build what would be released, and use it as a stranger would: from an empty environment, outside of the checkout.

    python .ci/release_check.py                  with what pip finds of the dependencies
    python .ci/release_check.py --python PYTHON  on another Python

Whatever is not as it should be ends it with a sentence. It leaves what it built in dist/.
"""

import argparse
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXERCISES = Path(__file__).with_name("release_exercises.py")
EPOCH = "1700000000"
"""What SOURCE_DATE_EPOCH is in both builds: any time would do."""


class NotReadyError(Exception):
    """What must be mended before a release."""


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is checked, and that it held."""
    print(f"{title} … ", end="", flush=True)
    yield
    print("well", flush=True)


def call(*command: str | Path, cwd: Path | None = None, **environ: str) -> str:
    """Run `command` without any of the variables that would let the checkout in; return what it printed."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GRADSCOPE", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**kept, **environ}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotReadyError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(folder: Path, python: str = sys.executable) -> Path:
    """Make an empty virtual environment in `folder`, and return its interpreter."""
    call(python, "-m", "venv", folder)
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    """Install `what` there."""
    call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def build(tools: Path, source: Path, folder: Path, *kinds: str) -> list[Path]:
    """Build the `kinds` of distribution from `source` into `folder`, and return them by name."""
    call(tools, "-m", "build", *kinds, "--outdir", folder, source, SOURCE_DATE_EPOCH=EPOCH)
    return sorted(folder.iterdir())


def unpacked(sdist: Path, folder: Path) -> Path:
    """Unpack `sdist`, and return where its files lie."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def check_same(one: list[Path], other: list[Path]) -> None:
    """Two builds of the same must not differ in a byte."""
    for a, b in zip(one, other, strict=True):
        if a.name != b.name or not filecmp.cmp(a, b, shallow=False):
            raise NotReadyError(f"{a.name} differs from build to build")


def check_sources(source: Path) -> None:
    """What is kept of the checkout is in the sdist, but for pictures."""
    kept = call("git", "ls-files", cwd=ROOT).splitlines()
    left_out = re.compile(r"\.png$")
    if missing := [name for name in kept if not (source / name).exists() and not left_out.search(name)]:
        raise NotReadyError(f"the sdist lacks {', '.join(missing)}")


def check_wheel(wheel: Path) -> None:
    """Every file of the package is in the wheel, nothing else, and the metadata says what one wants to know."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (about,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(about).decode())
        licences = [name for name in archive.namelist() if "/licenses/LICENSE" in name]
    kept = set(call("git", "ls-files", "gradscope", cwd=ROOT).splitlines())
    kept = {name.replace("gradscope/lightning_gradscope.py", "lightning_gradscope.py") for name in kept}
    if inside != kept:
        raise NotReadyError(f"the wheel differs from the checkout in {', '.join(sorted(inside ^ kept))}")
    version = metadata["Version"]
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise NotReadyError(f"{version} is no semantic version")
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not any(f"## [{name}]" in log for name in (version, "Unreleased")):
        raise NotReadyError(f"CHANGELOG.md has no section [{version}], nor [Unreleased]")
    for field in (
        "Summary",
        "License-Expression",
        "Requires-Python",
        "Author",
        "Description-Content-Type",
    ):
        if not metadata[field]:
            raise NotReadyError(f"the metadata has no {field}")
    if len(licences) != 1 or not metadata.get_all("Classifier"):
        raise NotReadyError("the licence or the classifiers are missing")


def main() -> int:
    """Run all steps; say what is wrong with the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="which Python gets the empty environment")
    asked = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), asked.python)
    except NotReadyError as error:
        print(f"NOT READY\n{error}", file=sys.stderr)
        return 1
    return 0


def run(folder: Path, python: str) -> None:
    """Run all steps in `folder`."""
    tools = environment(folder / "tools")
    install(tools, "build", "twine")
    with step("building twice gives the same bytes"):
        built = build(tools, ROOT, folder / "first")
        check_same(built, build(tools, ROOT, folder / "second"))
    wheel, sdist = built
    with step("the sdist is complete, and gives the same wheel"):
        source = unpacked(sdist, folder / "source")
        check_sources(source)
        check_same([wheel], build(tools, source, folder / "third", "--wheel"))
    with step("the wheel holds the package, and its metadata is whole"):
        check_wheel(wheel)
        call(tools, "-m", "twine", "check", "--strict", *built)
    with step("it installs into an empty environment, without extras"):
        empty = environment(folder / "empty", python)
        install(empty, wheel)
        call(empty, "-m", "pip", "check")
    for name in call(empty, EXERCISES, "--list", cwd=folder).split():
        with step(f"there: {name.replace('_', ' ')}"):
            call(empty, EXERCISES, name, cwd=folder)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    shutil.copytree(folder / "first", ROOT / "dist")


if __name__ == "__main__":
    sys.exit(main())
