"""Results and tables of Refrain workflows as Arrow, for pandas, polars and DuckDB.

    import refrain_workflow as refrain

    refrain.results("sweep.yaml").to_pandas()
    refrain.table("sweep.yaml", "scored")            # a polars.from_arrow away
    refrain.table("sweep.yaml", "tuned[arm=masked].log")

Both ask the program `refrain`, which this package brings. Nothing is computed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

__all__ = ["RefrainError", "results", "table"]

Path = "str | os.PathLike[str]"


class RefrainError(Exception):
    """An error that the program reports; `exit_code` is its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def results(path: Path, *, each: bool = False, cache: Path | None = None) -> pyarrow.Table:
    """The table of `refrain results`: a row per point, a column per metric.

    Where a value is the mean of several points, `NAME (sd)` and `NAME (n)` have their standard
    deviation and number; `each` gives the points themselves. `NAME (published)` has the value that
    an `expect` names.
    """
    import pyarrow

    arguments = ["results", os.fspath(path), *(["--each"] if each else [])]
    rows = json.loads(_refrain([*arguments, "--format", "json"], cache))["rows"]
    axes = _union(row["point"] for row in rows)
    headings = _union(row["figures"] for row in rows)
    figures = [figure for row in rows for figure in row["figures"].values()]
    means = any(figure["points"] > 1 for figure in figures)

    columns: dict[str, Any] = {}
    if any(row["name"] is not None for row in rows):
        columns["name"] = pyarrow.array([row["name"] for row in rows], pyarrow.string())
    for axis in axes:
        columns[axis] = pyarrow.array([row["point"].get(axis) for row in rows], pyarrow.string())
    for heading in headings:
        of = [row["figures"].get(heading) or {} for row in rows]
        if any(figure.get("published") is not None for figure in of):
            columns[f"{heading} (published)"] = _floats(figure.get("published") for figure in of)
        columns[heading] = _floats(figure.get("value") for figure in of)
        if means:
            columns[f"{heading} (sd)"] = _floats(figure.get("deviation") for figure in of)
            numbers = [figure.get("points") for figure in of]
            columns[f"{heading} (n)"] = pyarrow.array(numbers, pyarrow.int64())
    columns["status"] = pyarrow.array([row["status"] for row in rows], pyarrow.string())
    return pyarrow.table(columns)


def table(path: Path, node: str, *, cache: Path | None = None) -> pyarrow.Table:
    """The table of a node, such as `scored` or `masked[threshold=2.5]`, or one of its further
    outputs, such as `tuned.log` or `target.metrics`."""
    import pyarrow.parquet

    arguments = ["show", os.fspath(path), node, "--path", "--format", "json"]
    file = _refrain(arguments, cache).rstrip("\n")
    if not os.path.isfile(file):
        raise RefrainError(f"`{node}` is not a table: it lies in `{file}`", 2)
    return pyarrow.parquet.read_table(file)


def _union(mappings: Any) -> list[str]:
    """The keys of all mappings, in the order in which they are first met."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _floats(values: Any) -> Any:
    import pyarrow

    return pyarrow.array(list(values), pyarrow.float64())


def _refrain(arguments: list[str], cache: Path | None) -> str:
    """Runs the program and returns what it prints."""
    if cache is not None:
        arguments = [*arguments, "--cache", os.fspath(cache)]
    done = subprocess.run(
        [_program(), *arguments], capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RefrainError(_message(done.stderr), done.returncode)
    return done.stdout


def _message(stderr: str) -> str:
    """The errors in what the program says of them."""
    lines = stderr.strip().splitlines()
    try:
        errors = json.loads(lines[-1])["errors"]
    except (IndexError, ValueError, KeyError, TypeError):
        return stderr.strip() or "refrain failed and said nothing"
    texts = []
    for error in errors:
        at = "" if error["line"] is None else f"{error['file']}:{error['line']}:{error['column']}: "
        hints = "".join(f" ({hint})" for hint in error["hints"])
        texts.append(f"{at}{error['message']}{hints}")
    return "\n".join(texts)


def _program() -> str:
    """The program of this package, or else the first one on the path."""
    name = "refrain.exe" if os.name == "nt" else "refrain"
    for folder in (sysconfig.get_path("scripts"), _user_scripts()):
        program = os.path.join(folder, name)
        if os.path.isfile(program):
            return program
    program = shutil.which("refrain")
    if program is None:
        raise RefrainError("the program `refrain` is not installed", 4)
    return program


def _user_scripts() -> str:
    return sysconfig.get_path("scripts", f"{os.name}_user")
