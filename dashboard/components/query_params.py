"""What a page shows is in its address: opening the address shows the same thing again.

Three ways, by what is to be kept:

- a setting of a widget whose options are their own labels (a number, a switch, a text): give the
  widget a `key` and `bind="query-params"`; streamlit then keeps it in the address and ignores
  wrong values. (With a format_func it would keep the label: use the next.)
- which run, user, item or part is shown: `choose`, `choose_many` and `segment`. They keep the id,
  not the label, write it (the default may be another one tomorrow) unless told that it follows
  from another choice, and say when it is unknown;
- anything else, such as the users selected on a chart: `read`, `read_many`, `write`.

Whatever comes from an address is checked against what is allowed before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.components.formatting import short

Allowed = Collection[str] | Callable[[str], bool]
LONGEST = 200
MOST_VALUES = 500


def read(name: str, allowed: Allowed, default: str | None = None) -> str | None:
    """Return a value from the address if it is allowed, else the default."""
    value = st.query_params.get(name)
    return value if value is not None and _is_allowed(value, allowed) else default


def read_many(name: str, allowed: Allowed) -> list[str]:
    """Return the allowed values under a name, each once, in the address's order."""
    found = dict.fromkeys(st.query_params.get_all(name)[:MOST_VALUES])
    return [value for value in found if _is_allowed(value, allowed)]


def write(name: str, value: str | Sequence[str] | None) -> None:
    """Put a value, or several, into the address; None or nothing removes the name."""
    now = st.query_params.get_all(name)
    wanted = [value] if isinstance(value, str) else list(value or [])
    if wanted == now:
        return
    if wanted:
        st.query_params[name] = wanted if len(wanted) > 1 else wanted[0]
    else:
        st.query_params.pop(name, None)


def forget(*names: str) -> None:
    """Make `choose` and `choose_many` under these names begin again from their defaults."""
    for name in names:
        write(name, None)
        st.session_state.pop(f"choose-{name}", None)


def choose(
    label: str,
    options: Sequence[str],
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    default: str | None = None,
    follows: bool = False,
    **widget: Any,
) -> str:
    """A select box of ids whose choice is in the address under `name`; returns the id.

    labels: what is shown for each id. default: the id taken when the address names none
    (the first option if not given). follows: the default depends on another choice, so only
    what somebody chose is written. widget: other settings of st.selectbox. options must not be
    empty.
    """
    key = f"choose-{name}"
    given = st.query_params.get(name)
    if given is not None and given not in options:
        _say_unknown(label, [given])
    start = default if default in options else options[0]
    st.session_state[key] = given if given in options else start
    chosen = st.selectbox(
        label,
        options,
        key=key,
        format_func=_labelled(labels),
        on_change=lambda: write(name, st.session_state[key]),
        **widget,
    )
    write(name, None if follows and given not in options else chosen)
    return str(chosen)


def segment(label: str, options: Mapping[str, str], name: str, **widget: Any) -> str:
    """A segmented control of ids with labels; the choice is in the address under `name`.

    The first option is the default and stays out of the address. An unknown one is ignored.
    """
    key = f"choose-{name}"
    first = next(iter(options))
    st.session_state[key] = read(name, options, first)
    chosen = st.segmented_control(
        label,
        list(options),
        required=True,
        key=key,
        format_func=options.__getitem__,
        on_change=lambda: write(name, st.session_state[key]),
        **widget,
    )
    write(name, None if chosen == first else chosen)
    return str(chosen)


def choose_many(
    label: str,
    options: Sequence[str],
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    default: Sequence[str] = (),
    **widget: Any,
) -> list[str]:
    """A multi-select of ids whose choice is in the address under `name`; returns the ids."""
    key = f"choose-{name}"
    unknown = [one for one in st.query_params.get_all(name) if one not in options]
    if unknown:
        _say_unknown(label, unknown)
    # A choice emptied on purpose is not a first visit.
    start = [] if key in st.session_state else [one for one in default if one in options]
    st.session_state[key] = read_many(name, options) or start
    chosen = st.multiselect(
        label,
        options,
        key=key,
        format_func=_labelled(labels),
        on_change=lambda: write(name, st.session_state[key]),
        **widget,
    )
    write(name, chosen)
    return [str(one) for one in chosen]


def _labelled(labels: Mapping[str, str] | None) -> Callable[[str], str]:
    return lambda one: short((labels or {}).get(one, one), 120)


def _say_unknown(label: str, values: Sequence[str]) -> None:
    st.warning(
        f"The address names something under “{label}” that is not here; the page shows what "
        "there is.",
        icon=":material/link_off:",
    )
    st.text(short(", ".join(values)))


def _is_allowed(value: str, allowed: Allowed) -> bool:
    if len(value) > LONGEST:
        return False
    return allowed(value) if callable(allowed) else value in allowed
