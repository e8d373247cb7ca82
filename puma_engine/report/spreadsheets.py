"""Texts that a spreadsheet would run as formulas, in tables that become CSV files."""

import re

import pandas as pd

# Spreadsheets skip what is invisible before a sign, and read full-width signs as signs.
_FORMULA = re.compile(
    r"[\t\r\n]|[\s\x00-\x1f\x7f\u00ad\u200b-\u200f\u2060\ufeff]*[-=+@\uff0d\uff1d\uff0b\uff20]"
)


def without_formulas(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return a table with an apostrophe before each text that is a formula, and how many there are."""
    safe, count = table.copy(), 0
    for name in safe.select_dtypes(include=["object", "string", "category"]):
        values = safe[name].astype(object)
        formulas = values.map(lambda value: isinstance(value, str) and bool(_FORMULA.match(value)))
        count += int(formulas.sum())
        safe[name] = values.where(~formulas.astype(bool), "'" + values.astype(str))
    return safe, count
