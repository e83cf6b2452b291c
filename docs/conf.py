"""How the pages are built: `make docs`. Nothing is fetched, and every warning is an error."""

import sys
from pathlib import Path

import gradscope

sys.path.insert(0, str(Path(__file__).parent))

project = "gradscope"
author = "The gradscope developers"
copyright = author  # noqa: A001, the name that Sphinx reads
release = version = gradscope.__version__

extensions = ["sphinx.ext.autodoc", "from_code"]
exclude_patterns = ["_build"]
default_role = "named"  # of `single backticks`, in docstrings too: see from_code.py
smartquotes_action = "D"  # dashes, but no quotes: φ' is a derivative
html_theme = "furo"
html_title = f"gradscope {release}"
html_copy_source = False

autodoc_default_options = {"undoc-members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

nitpicky = True
nitpick_ignore_regex = [  # what other projects document, whose inventories are not at hand without a network
    (r"py:.*", r"(numpy|np|npt|pandas|torch|pytorch_lightning|pl|collections|os)\..*"),
    (r"py:obj", r"TensorBoardLogger|GradScaler|None|True|False"),
]
