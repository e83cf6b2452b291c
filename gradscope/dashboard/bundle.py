"""The page's modules as the text of one: a file that stands alone has no place that they could be imported from.

Addresses that hold a module (``data:``) would do, but then the file's policy had to let such addresses run, whoever
wrote them. Of a text that stands in the file its digest is enough.
"""

import re
from collections.abc import Callable

_IMPORT = re.compile(r"^import \{([^}]*)\} from '\./([\w.-]+)';$", re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async function|class|const|function) (\w+))", re.MULTILINE)
_OTHER = re.compile(r"^(?:import|export)\b|\bimport[.(]", re.MULTILINE)


def bundled(entry: str, read: Callable[[str], str]) -> str:
    """Return the module called `entry`, and all that it needs, as one that imports and exports nothing.

    Afterwards its exports are in ``gradscopeModules[entry]``. `read` gives the text of a module by its name.

    Raises:
        ValueError: a module imports or exports in another way than all of ours do, or needs itself.
    """
    parts: dict[str, str] = {}
    _add(entry, read, parts, ())
    return "\n".join(["const gradscopeModules = {};", *parts.values()])


def _add(name: str, read: Callable[[str], str], parts: dict[str, str], needed_by: tuple[str, ...]) -> None:
    if name in needed_by:
        raise ValueError(f"modules must not need each other, got {' → '.join((*needed_by, name))}")
    if name in parts:
        return
    text = read(name)
    for _, needed in _IMPORT.findall(text):
        _add(needed, read, parts, (*needed_by, name))
    parts[name] = _as_function(name, text)


def _as_function(name: str, text: str) -> str:
    """Each module keeps its own names to itself, as it does where it is a file."""
    exports = [exported for _, exported in _EXPORT.findall(text)]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(_import, text))
    if other := _OTHER.search(body):
        raise ValueError(f"a module must import and export by name at the start of a line, got {other[0]!r} in {name}")
    return f"gradscopeModules['{name}'] = (() => {{\n{body}\nreturn {{{', '.join(exports)}}};\n}})();"


def _import(match: re.Match[str]) -> str:
    return f"const {{{match[1].replace(' as ', ': ')}}} = gradscopeModules['{match[2]}'];"
