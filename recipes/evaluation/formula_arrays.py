"""Formulas of several lines, which OmniDocBench compares line by line."""

import re

_ARRAY = re.compile(r"\\begin\{array\}\{(?P<columns>[^}]*)\}(?P<body>.*?)\\end\{array\}", re.DOTALL)
_NO_COLUMN = re.compile(r"\s+|\||@{[^}]*}|!{[^}]*}")


def array_lines(formula: str) -> list[tuple[str, int]] | None:
    """Lines of an array of a single column, each as a formula with the position of its text; None for others."""
    array = _ARRAY.search(formula) if "\\begin{array" in formula else None
    if array is None or _NO_COLUMN.sub("", array["columns"]) not in ("l", "c", "r"):
        return None
    found, end = [], 0
    for line in re.split(r"\\\\", array["body"]):
        line = line.strip()
        if line:
            start = array["body"].find(line, end)
            end = start + len(line)
            found.append((f"\\[{line}\\]", array.start("body") + start))
    return found
