"""Runs as tables of pandas and Parquet: what the extra ``export`` installs is imported when it is asked for."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradscope.export.tidy import FIELDS, Rows, Table

if TYPE_CHECKING:
    import pandas


class MissingExtraError(ImportError):
    """A library that only the extra ``export`` installs is not there."""


def to_dataframe(table: Table) -> "pandas.DataFrame":
    """Return all rows of `table` as a DataFrame with the columns `FIELDS`, the strings as categories.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    pd = _library("pandas")
    blocks = list(table.rows())
    rows = Rows(*map(np.concatenate, zip(*blocks, strict=True))) if blocks else _no_rows()
    names = {"layer": rows.layers, "type": rows.layers, "kind": rows.layers, "metric": rows.metrics}
    texts: dict[str, Any] = {"run": pd.Categorical.from_codes(np.zeros(len(rows.steps), np.int8), [table.run.name])}
    for name, codes in names.items():
        # Two layers may have one type: a category stands for a text, not for a layer.
        every = _texts(table, name)
        distinct = {text: i for i, text in enumerate(dict.fromkeys(every))}
        lookup = np.array([distinct[text] for text in every], dtype=np.int32)
        texts[name] = pd.Categorical.from_codes(lookup[codes] if len(codes) else codes, list(distinct))
    columns = {**texts, "step": rows.steps, "wall_time": rows.wall_times, "value": rows.values}
    return pd.DataFrame({name: columns[name] for name in FIELDS})


def write_parquet(tables: Iterable[Table], path: Path) -> int:
    """Write the rows of `tables` to `path`, block by block, and return how many there are.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    pa = _library("pyarrow")
    parquet = _library("pyarrow.parquet")
    kinds = {"step": pa.int64(), "wall_time": pa.float64(), "value": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in FIELDS])
    number = 0
    with path.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for table in tables:
            for rows in table.rows():
                writer.write_table(_arrow(pa, table, rows, schema))
                number += len(rows.steps)
    return number


def _arrow(pa: Any, table: Table, rows: Rows, schema: Any) -> Any:
    codes = {"run": np.zeros(len(rows.steps), np.int32), "metric": rows.metrics}
    columns: dict[str, Any] = {"step": rows.steps, "wall_time": rows.wall_times, "value": rows.values}
    for name in FIELDS:
        if name not in columns:
            texts = pa.array(_texts(table, name), pa.string())
            columns[name] = texts.take(pa.array(codes.get(name, rows.layers)))
    return pa.table({name: columns[name] for name in FIELDS}, schema=schema)


def _texts(table: Table, name: str) -> list[str]:
    if name == "run":
        return [_encodable(table.run.name)]
    if name == "metric":
        return list(map(_encodable, table.metrics))
    part = {"layer": "name"}.get(name, name)
    return [_encodable(getattr(layer, part)) for layer in table.layers]


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _no_rows() -> Rows:
    integers, floats = np.empty(0, dtype=np.int32), np.empty(0)
    return Rows(np.empty(0, dtype=np.int64), floats, integers, integers, floats)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name.partition('.')[0]} is not installed; it comes with the extra `export` of the distribution "
            'lightning-gradscope, from a checkout: pip install ".[export]"'
        ) from error
