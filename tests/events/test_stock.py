import io
import math
import re
from collections.abc import Sequence

import markdown  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image
from tensorboard.util import tensor_util

from gradscope.events.stock import (
    LAYER_LIMIT,
    distribution,
    heat_map,
    layer_scalars,
    scalar_values,
    scalars,
    verdict_table,
)
from gradscope.records import Finding, Floats, Layer, Metric, Record, Run, Severity

GRAD_NORM = Metric("grad_norm", "Gradient norm", "L2 norm")
COLUMNS = (
    GRAD_NORM,
    Metric("update_ratio", "Update ratio", "ratio"),
    Metric("act_mean", "Mean of the outputs", "value"),
    Metric("dead_fraction", "Dead units", "fraction"),
    Metric("nonfinite", "NaN or infinite", "flags"),
)


def record_of(values: Sequence[float] | Floats, **totals: float) -> Record:
    layers = tuple(Layer(f"layer{i}", "Linear", "linear") for i in range(len(values)))
    return Record(0, 0.0, layers, {"grad_norm": np.array(values, dtype=np.float32)}, totals)


def finding(message: str = "message", layers: tuple[str, ...] = ("fc",), hint: str = "hint") -> Finding:
    return Finding("dead_relu", Severity.CRITICAL, layers, 10, 90, message, hint)


def table(*findings: Finding) -> str:
    text: bytes = verdict_table(findings).tensor.string_val[0]
    return text.decode()


def cells(row: str) -> list[str]:
    return re.findall(r"<td>(.*?)</td>", row)


def rendered(*findings: Finding) -> str:
    html: str = markdown.markdown(table(*findings), extensions=["markdown.extensions.tables"])
    return html


class TestScalars:
    def test_norms_have_quantiles_over_the_finite_values(self) -> None:
        values = np.random.default_rng(0).lognormal(0, 3, 101).astype(np.float32)
        curves = scalars(record_of([*values, math.nan, math.inf]), [GRAD_NORM])
        expected = dict(
            zip(("min", "p25", "median", "p75", "max"), np.percentile(values, (0, 25, 50, 75, 100)), strict=True)
        )
        assert curves == pytest.approx({f"gradscope/grad_norm/{name}": value for name, value in expected.items()})

    def test_each_unit_has_its_statistics(self) -> None:
        keys = scalars(record_of([1.0]), COLUMNS).keys()
        statistics: dict[str, list[str]] = {}
        for key in keys:
            _, metric, statistic = key.split("/")
            statistics.setdefault(metric, []).append(statistic)
        assert statistics == {
            "grad_norm": ["min", "p25", "median", "p75", "max"],
            "update_ratio": ["min", "p25", "median", "p75", "max"],
            "act_mean": ["min", "max"],
            "dead_fraction": ["max"],
            "nonfinite": ["max"],
        }

    def test_the_keys_do_not_depend_on_what_was_measured(self) -> None:
        nothing = Record(0, 0.0, record_of([1, 2]).layers, {})
        keys = [
            [*scalars(r, COLUMNS), *layer_scalars(r, COLUMNS)]
            for r in (record_of([1, 2]), record_of([math.nan, math.inf]), nothing)
        ]
        assert keys[0] == keys[1] == keys[2]
        assert all(math.isnan(value) for value in scalars(nothing, COLUMNS).values())

    def test_a_record_without_layers_gives_nan(self) -> None:
        assert math.isnan(scalars(record_of([]), [GRAD_NORM])["gradscope/grad_norm/median"])

    def test_globals_that_a_gradient_log_needs_are_drawn(self) -> None:
        curves = scalars(record_of([], total_norm=3.0, clip_coefficient=0.5, loss=1.0, skipped=0.0), [])
        assert curves == {"gradscope/total_norm": 3.0, "gradscope/clip_coefficient": 0.5}

    def test_up_to_the_limit_each_layer_has_a_chart(self) -> None:
        curves = layer_scalars(record_of(np.arange(LAYER_LIMIT, dtype=np.float32)), [GRAD_NORM])
        assert [curves[f"gradscope_grad_norm/layer{i}"] for i in range(LAYER_LIMIT)] == list(range(LAYER_LIMIT))

    def test_beyond_the_limit_no_layer_has_one(self) -> None:
        curves = layer_scalars(record_of(np.ones(LAYER_LIMIT + 1, dtype=np.float32)), [GRAD_NORM])
        assert curves == {}

    def test_a_layer_without_a_name_is_called_by_its_type(self) -> None:
        record = Record(0, 0.0, (Layer("", "Net", "parameters"),), {"grad_norm": np.ones(1, dtype=np.float32)})
        assert layer_scalars(record, [GRAD_NORM])["gradscope_grad_norm/Net"] == 1.0

    def test_nan_is_not_written_and_infinity_is(self) -> None:
        values = scalar_values({"a": math.nan, "b": math.inf, "c": 0.5})
        assert [(value.tag, value.simple_value) for value in values] == [("b", math.inf), ("c", 0.5)]


class TestDistribution:
    def test_counts_each_layer_once_by_its_decade(self) -> None:
        value = distribution(record_of([1e-6] * 3 + [1e-3] * 2 + [1.0] + [0.0, math.nan, math.inf]))
        assert value is not None
        assert value.tag == "gradscope/log10_grad_norm_over_layers"
        buckets = tensor_util.make_ndarray(value.tensor)
        assert buckets.shape == (30, 3)
        filled = buckets[buckets[:, 2] > 0]
        assert filled[:, 2].tolist() == [3, 2, 1]
        decades = np.array([-6, -3, 0])
        assert (filled[:, 0] <= decades + 1e-6).all()
        assert (filled[:, 1] >= decades - 1e-6).all()

    @pytest.mark.parametrize("values", [[], [0.0, 0.0], [math.nan], [math.inf]])
    def test_nothing_to_show_gives_none(self, values: list[float]) -> None:
        assert distribution(record_of(values)) is None

    def test_without_the_metric_there_is_nothing_to_show(self) -> None:
        assert distribution(Record(0, 0.0, record_of([1]).layers, {})) is None


class TestHeatMap:
    def test_is_a_png_of_the_stated_size(self) -> None:
        run = Run.from_records("run", [record_of([0.1, 0.2])], COLUMNS)
        value = heat_map(run)
        assert value is not None
        assert value.tag == "gradscope/heat_map/grad_norm"
        width, height, png = value.tensor.string_val
        assert Image.open(io.BytesIO(png)).size == (int(width), int(height))

    def test_nothing_measured_gives_none(self) -> None:
        for records in ([], [record_of([math.nan])]):
            assert heat_map(Run.from_records("run", records, COLUMNS)) is None


class TestVerdictTable:
    def test_a_finding_is_a_row(self) -> None:
        rows = rendered(finding("60 % of the units are dead.", ("a", "b", "c", "d", "e"), "Lower the rate.")).split(
            "<tr>"
        )
        assert len(rows) == 3
        assert cells(rows[2]) == [
            "critical<br>dead&#95;relu",
            "a, b, c, +2 more<br>steps 10 to 90",
            "60 % of the units are dead.",
            "Lower the rate.",
        ]

    def test_long_texts_are_broken_between_words(self) -> None:
        (line,) = [row for row in rendered(finding("many words " * 20)).split("<tr>") if "many" in row]
        lines = cells(line)[2].split("<br>")
        assert max(map(len, lines)) <= 36
        assert " ".join(lines) == ("many words " * 20).strip()

    def test_a_finding_of_the_whole_net_and_one_step(self) -> None:
        row = table(Finding("non_finite", Severity.INFO, (), 3, 3, "m", "h")).splitlines()[2]
        assert row == "| info<br>non&#95;finite | the whole net<br>step 3 | m | h |"

    def test_a_sound_run_says_so(self) -> None:
        assert table() == (
            "**Sound.** GradScope found nothing wrong with the gradients and activations that it measured."
        )

    @pytest.mark.parametrize(
        "hostile",
        [
            "a|b",
            "a\n| x | y |",
            "`code`",
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "[x](javascript:alert(1))",
            "![x](http://example.com/x.png)",
            "**bold** _it_ # head",
            "\\|",
            "&lt;b&gt;",
            "\u2028\u202e",
        ],
    )
    def test_nothing_in_a_name_or_message_is_markup(self, hostile: str) -> None:
        html = rendered(finding(hostile, (hostile,), hostile))
        rows = html.split("<tr>")
        assert len(rows) == 3
        assert len(cells(rows[2])) == 4
        tags = set(re.findall(r"<\s*/?\s*(\w+)", html))
        assert tags == {"table", "thead", "tbody", "tr", "th", "td", "br"}
