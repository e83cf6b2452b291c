"""Where TensorBoard finds the tab. It imports this before anything is drawn: what fails here would fail all of it."""

import logging
from typing import Any

from tensorboard.plugins import base_plugin

PLUGIN_NAME = "gradscope"
RECORDS_KEPT = 1000
"""Of each series; TensorBoard's own default is 100, or 10 with its Python reader. The last one is always kept."""


class GradScopeLoader(base_plugin.TBLoader):  # type: ignore[misc]  # untyped
    """Loads the tab, or leaves TensorBoard as it is."""

    def fix_flags(self, flags: Any) -> None:
        """Let the server keep `RECORDS_KEPT` records of each series, unless the user said how many."""
        try:
            flags.samples_per_plugin.setdefault(PLUGIN_NAME, RECORDS_KEPT)
        except Exception as error:
            logging.getLogger("gradscope").warning("GradScope: its tab shows few records of each run: %r", error)

    def load(self, context: Any) -> base_plugin.TBPlugin | None:
        """Return the tab's server side, or None where it cannot work, which is logged."""
        try:
            # Of two plug-ins with the same name, as two installations give them, TensorBoard would stop.
            if context.data_provider is None or PLUGIN_NAME in (context.plugin_name_to_instance or ()):
                return None
            from gradscope.dashboard.plugin import GradScopePlugin

            return GradScopePlugin(context)
        except Exception:
            logging.getLogger("gradscope").exception("GradScope: its tab could not be loaded; all others work")
            return None
