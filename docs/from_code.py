"""What the pages take from the code, so that they cannot differ from it; and what must not be missing."""

import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import is_dataclass
from io import StringIO
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.logging import getLogger

import gradscope
from gradscope import Metric, Thresholds, cli
from gradscope.explanations import EXPLANATIONS, Explanation, values_of
from gradscope.probes import PROBES

METRICS = {metric.name: metric for probe in PROBES for metric in probe(Thresholds()).metrics}

log = getLogger(__name__)


class Named(SphinxRole):
    """A name in single backticks: a link to what it names.

    A name of this package or in CamelCase has to be found, else the build fails; any other is an argument, an option
    or a word of the field that need not have a page.
    """

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the node that is resolved when all pages are read."""
        shown = nodes.literal(self.rawtext, self.text, classes=["xref", "py", "py-obj"])
        if not re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", self.text):
            return [shown], []
        target = pending_xref(
            self.rawtext,
            shown,
            refdomain="py",
            reftype="obj",
            reftarget=self.text.removesuffix("()"),
            refdoc=self.env.docname,
            refwarn=True,
            optional=not re.match(r"gradscope\.|[A-Z]\w*[a-z]", self.text),
        )
        target["py:module"] = self.env.ref_context.get("py:module", "gradscope")
        target["py:class"] = self.env.ref_context.get("py:class")
        return [target], []


def keep_unlinked(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Node) -> nodes.Node | None:
    """Accept that a name that may lead nowhere does."""
    return shown if node.get("optional") else None


class Findings(SphinxDirective):
    """A section for each finding, from `gradscope.explanations`."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        return [node for explanation in EXPLANATIONS.values() for node in self._section(explanation)]

    def _section(self, explanation: Explanation) -> list[nodes.Node]:
        text = "\n".join(explained(explanation))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def explained(explanation: Explanation) -> Iterator[str]:
    """Tell a finding in reStructuredText: the parts and the order are those of ``gradscope explain``."""
    yield from (f".. _{explanation.code}:", "", explanation.code, "=" * len(explanation.code), "")
    yield from (f"**{escaped(explanation.title)}**", "", escaped(explanation.what), "")
    yield from (".. rubric:: The mathematics", "")
    yield from (f"| {indented(line)}" for line in explanation.mathematics)
    yield from ("", ".. rubric:: How it is measured", "", escaped(explanation.measured), "")
    if explanation.thresholds:
        yield from (".. rubric:: Judged by, at their defaults", "")
        for name, value in values_of(explanation, Thresholds()).items():
            yield f"* :py:attr:`~gradscope.Thresholds.{name}` = ``{value!r}``"
    yield from ("", ".. rubric:: What to do, most likely to help first", "")
    yield from (f"#. {escaped(cure)}" for cure in explanation.cures)
    yield from ("", ".. rubric:: Sources", "")
    yield from (f"* {escaped(source)}" for source in explanation.sources)


def indented(line: str) -> str:
    """Return a line of plain text as one of a line block, with its indentation."""
    return " " * (len(line) - len(line.lstrip())) + escaped(line.lstrip())


def escaped(text: str) -> str:
    """Return plain text as reStructuredText that shows it as it is."""
    return re.sub(r"([\\`*_|])", r"\\\1", text)


class MetricDirective(SphinxDirective):
    """The section of a metric: its name, its title, its unit and its healthy ranges come from its `Metric`."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the section, with the definition in the page behind what the code says."""
        name = self.arguments[0]
        if name not in METRICS:
            raise self.error(f"`{name}` is no metric; there are {', '.join(METRICS)}")
        self.env.metadata[self.env.docname].setdefault("metrics", []).append(name)
        text = "\n".join([*column(METRICS[name]), *self.content])
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def column(metric: Metric) -> Iterator[str]:
    """Tell in reStructuredText what a `Metric` says of itself."""
    yield from (f".. _{metric.name}:", "", metric.name, "=" * len(metric.name), "")
    ranges = [f"healthy between {low:g} and {high:g} ({kind})" for kind, (low, high) in metric.healthy.items()]
    yield from ("*" + escaped(", ".join([metric.title, metric.unit, *ranges])) + "*", "")


class Help(SphinxDirective):
    """What ``gradscope COMMAND --help`` prints, 80 columns wide."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return it as it stands."""
        printed = StringIO()
        with patch.dict("os.environ", COLUMNS="80", NO_COLOR="1"), redirect_stdout(printed):
            try:
                status: object = cli.main([*self.arguments, "--help"])
            except SystemExit as end:
                status = end.code
        if status != 0:
            raise self.error(f"`gradscope {' '.join(self.arguments)} --help` ended with status {status}")
        return [nodes.literal_block(printed.getvalue(), printed.getvalue(), language="text")]


def read_docstring(app: Sphinx, what: Any, name: str, obj: object, options: SimpleNamespace, lines: list[str]) -> None:
    """Read the sections of Google's style, and warn of what is public and says nothing about itself."""
    if not any(line.strip() for line in lines):
        log.warning("%s %s has no docstring", what, name, type="from_code")
    # The extension `sphinx.ext.napoleon` would do so, but takes what stands before a colon in the first line of an
    # attribute's docstring for its type.
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, what=what, name=name, obj=obj).lines()


def leave_out_fields(app: Sphinx, what: str, name: str, obj: object, *_: object) -> tuple[str, str] | None:
    """Give a dataclass no signature: it would repeat the fields below it. None leaves any other as it is."""
    return ("", "") if is_dataclass(obj) else None


def demand_everything(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names and metrics that stand on no page."""
    documented: dict[str, Any] = env.domains["py"].data["objects"]
    missing = [f"gradscope.{name}" for name in gradscope.__all__ if f"gradscope.{name}" not in documented]
    described = {name for page in env.metadata.values() for name in page.get("metrics", ())}
    for name in [*missing, *(name for name in METRICS if name not in described)]:
        log.warning("%s is public and stands on no page", name, type="from_code")


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx what is here."""
    app.add_role("named", Named())
    app.add_directive("findings", Findings)
    app.add_directive("metric", MetricDirective)
    app.add_directive("help", Help)
    app.connect("missing-reference", keep_unlinked)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", leave_out_fields)
    app.connect("env-check-consistency", demand_everything)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
