"""Escape texts in CSV files that a spreadsheet would run as formulas."""

import re

import pandas as pd

# Spreadsheets ignore invisible characters before a sign, and treat full-width signs as signs.
_FORMULA = re.compile(
    r"[\t\r\n]|[\s\x00-\x1f\x7f\u00ad\u200b-\u200f\u2060\ufeff]*[-=+@\uff0d\uff1d\uff0b\uff20]"
)


def without_formulas(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return a table with an apostrophe before each formula, and the number of formulas."""
    safe, count = table.copy(), 0
    for name in safe.select_dtypes(include=["object", "string", "category"]):
        values = safe[name].astype(object)
        formulas = values.map(lambda value: isinstance(value, str) and bool(_FORMULA.match(value)))
        count += int(formulas.sum())
        safe[name] = values.where(~formulas.astype(bool), "'" + values.astype(str))
    return safe, count
