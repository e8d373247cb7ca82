"""Jinja2 templates of reports and charts; all text is escaped, and hidden characters become spaces."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from puma_engine.evaluation.formatting import format_seconds
from puma_engine.report.decision_texts import percent

# Control characters, marks of text direction, byte order mark, unpaired surrogates.
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of the templates, with filters seconds, whole, percent, pretty, tick and px."""

    def visible(value: object) -> object:
        hidden = isinstance(value, str) and not isinstance(value, Markup)
        return _HIDDEN.sub(" ", str(value)) if hidden else value

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    templates.filters |= {
        "seconds": lambda value: "" if value is None else format_seconds(float(value)),
        "whole": lambda value: "" if pd.isna(value) else f"{int(value):,}",
        "percent": percent,
        "pretty": lambda value: json.dumps(value, ensure_ascii=False, indent=1),
        "tick": lambda value: "0" if f"{value:.4g}" == "-0" else f"{value:.4g}",
        "px": lambda value: f"{value:.1f}".removesuffix(".0"),
    }
    return templates
