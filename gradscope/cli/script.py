"""Running a script as if python itself ran it: its own arguments, path, `__main__`, traceback and exit status."""

import builtins
import io
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import CodeType, ModuleType, TracebackType
from typing import Any

from gradscope.cli.command import BadInputError

# Not by `runpy`: it takes `__main__` away at the end, which threads, pickles and handlers at exit may still look for.
# And paths stay strings, as python leaves them.


def run(script: str, arguments: Sequence[str], as_module: bool) -> None:
    """Run the `script`, a file or the name of a module, in this process; whatever ends it goes on from here.

    Raises:
        BadInputError: there is no such script.
    """
    sys.argv = [script, *arguments]
    main = None if as_module else PathFinder.find_spec("__main__", [script])  # of a folder or an archive
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        folder = os.getcwd() if as_module else os.path.dirname(os.path.realpath(script))  # noqa: PTH109, PTH120
        sys.path[0] = folder if main is None else os.path.abspath(script)  # noqa: PTH100  # not the command's own place
    try:
        if main is not None:
            _run_spec(main)
        elif as_module:
            _run_module(script)
        else:
            _run_file(script)
    except BaseException as error:
        _hide_ourselves(error)
        raise


def _run_file(path: str) -> None:
    full = os.path.abspath(path)  # noqa: PTH100, which would resolve links
    try:
        with io.open_code(full) as file:
            source = file.read()
    except OSError as error:
        raise BadInputError(
            f"`SCRIPT` must be a Python file that can be read, got {path!r}: {error.strerror}; give its path"
        ) from error
    _execute(compile(source, full, "exec", dont_inherit=True), __file__=full)


def _run_module(name: str) -> None:
    spec = _found(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _found(f"{name}.__main__")
    if spec is None:
        raise BadInputError(
            f"`-m` must be followed by the name of a module that can be run, got {name!r}; give one "
            "that `python -m` finds"
        )
    sys.argv[0] = spec.origin or name
    _run_spec(spec)


def _found(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        raise  # of something else, which a package above it imports


def _run_spec(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    names = {"__file__": spec.origin, "__package__": spec.parent, "__loader__": loader, "__spec__": spec}
    _execute(loader.get_code(spec.name), **names)


def _execute(code: CodeType, **names: Any) -> None:
    main = sys.modules["__main__"] = ModuleType("__main__")
    vars(main).update(names, __builtins__=builtins)
    exec(code, vars(main))


def _hide_ourselves(error: BaseException) -> None:
    """Have `error`, when it reaches python, reported with the frames of the script alone."""
    trace, show = error.__traceback__, sys.excepthook
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next

    def report(kind: type[BaseException], value: BaseException, whole: TracebackType | None) -> None:
        shown = trace if value is error else whole
        show(kind, value.with_traceback(shown), shown)

    sys.excepthook = report
