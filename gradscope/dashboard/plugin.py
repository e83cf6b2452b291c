"""The server's side of the tab: its routes, and how each is answered. They can be read only."""

import re

from tensorboard import plugin_util
from tensorboard.plugins import base_plugin
from werkzeug.wrappers import Request, Response

from gradscope.dashboard import answers, web
from gradscope.dashboard.cache import Judged, Key, RunCache
from gradscope.dashboard.provided_runs import ListedRun, ProvidedRuns, Sample, sample_of
from gradscope.events.decoding import PLUGIN_NAME
from gradscope.records import Metric


class GradScopePlugin(base_plugin.TBPlugin):  # type: ignore[misc]  # untyped
    """TensorBoard shows the tab where there is data with this plug-in's name."""

    plugin_name = PLUGIN_NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider
        self._cache = RunCache()

    def get_plugin_apps(self) -> dict[str, web.Application]:
        """Return the routes below ``/data/plugin/gradscope``."""
        return {
            "/runs": web.application(self._runs),
            "/matrix": web.application(self._matrix),
            "/summary": web.application(self._summary),
            "/layer": web.application(self._layer),
            "/static/*": web.application(web.static_file),
        }

    def is_active(self) -> bool:
        """Return False: TensorBoard then looks for data by itself, and without waiting for this plug-in."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return where the page begins, and what the tab is called."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="GradScope")

    def _runs(self, request: Request) -> Response:
        provided = self._provided(request)
        return web.json_response(request, answers.runs(provided.runs(), provided.severities()))

    def _matrix(self, request: Request) -> Response:
        name, records, after = web.argument(request, "metric"), _records(request), _after(request)
        provided = self._provided(request)
        listed = _listed(provided, request)
        metric = _metric(provided, listed, name)
        sample = self._sample(provided, listed, name, records)
        return web.binary_response(request, answers.matrix(sample, metric, after))

    def _summary(self, request: Request) -> Response:
        provided = self._provided(request)
        listed = _listed(provided, request)
        return web.json_response(request, answers.summary(self._judged(provided, listed), listed.version))

    def _layer(self, request: Request) -> Response:
        name = web.argument(request, "layer")
        provided = self._provided(request)
        run = self._judged(provided, _listed(provided, request)).run
        row = next((i for i, layer in enumerate(run.layers) if layer.name == name), None)
        if row is None:
            raise web.Refusal(404, f"the run has no layer {web.shortened(name)}; choose another, or reload the page")
        return web.json_response(request, answers.layer(run, row))

    def _provided(self, request: Request) -> ProvidedRuns:
        environ = request.environ
        return ProvidedRuns(self._provider, plugin_util.context(environ), plugin_util.experiment_id(environ))

    def _judged(self, provided: ProvidedRuns, listed: ListedRun) -> Judged:
        key = Key(provided.experiment, listed.name)
        return self._cache.get_or_load(key, listed.version, lambda: provided.read(listed))

    def _sample(self, provided: ProvidedRuns, listed: ListedRun, metric: str, records: int | None) -> Sample:
        judged = self._cache.get(Key(provided.experiment, listed.name), listed.version)
        if judged is None:
            return provided.read_metric(listed, metric, records)
        return sample_of(judged.run, metric, records)


def _listed(provided: ProvidedRuns, request: Request) -> ListedRun:
    name = web.argument(request, "run")
    listed = provided.runs(name).get(name)
    if listed is None:
        raise web.Refusal(404, f"there is no run {web.shortened(name)} with GradScope's data; reload the page")
    return listed


def _metric(provided: ProvidedRuns, listed: ListedRun, name: str) -> Metric:
    """Return the metric called `name`: the run's own, or that of another run beside which it can be shown as empty."""
    own = {metric.name: metric for metric in listed.columns()}
    if name in own:
        return own[name]
    for run in provided.runs().values():
        for metric in run.columns():
            if metric.name == name:
                return metric
    raise web.Refusal(404, f"no run has a metric {web.shortened(name)}; choose another, or reload the page")


def _records(request: Request) -> int | None:
    value = request.args.get("records")
    if value is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,8}", value, re.ASCII):
        raise web.Refusal(
            400, f"`records` must be an integer of at least 1, got {web.shortened(value)}; leave it out for all"
        )
    return int(value)


def _after(request: Request) -> str | None:
    value = request.args.get("after")
    if value and not answers.TOKEN.fullmatch(value):
        raise web.Refusal(
            400, f"`after` must be the token of an earlier answer, got {web.shortened(value)}; leave it out"
        )
    return value
