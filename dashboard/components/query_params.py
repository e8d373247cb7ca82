"""What a page shows is in its address, so that opening the address shows the same again.

How a value gets into the address depends on what it is:

- A widget whose options are their own labels (a number, a switch, a text): give the widget a
  `key` and `bind="query-params"`. Streamlit writes the value and ignores wrong ones. With a
  format_func it would write the label instead of the value.
- A run, user, item or view: `choose`, `choose_run`, `choose_many` and `segment`. They write the
  id, not the label, also when it is the default (which may be another one tomorrow), unless
  `follows` is set. They warn about unknown ids.
- Anything else, such as users selected on a chart: `read`, `read_many`, `write`.

Every value from an address is checked against what is allowed before it is used.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.components.formatting import escaped, short
from dashboard.engine import Run

Allowed = Collection[str] | Callable[[str], bool]
MAX_LENGTH = 200
MAX_VALUES = 500


def read(name: str, allowed: Allowed, default: str | None = None) -> str | None:
    """Return a value of the address if it is allowed, else the default."""
    value = st.query_params.get(name)
    return value if value is not None and _is_allowed(value, allowed) else default


def read_many(name: str, allowed: Allowed) -> list[str]:
    """Return the allowed values under a name without repetitions, in the address's order."""
    values = dict.fromkeys(st.query_params.get_all(name)[:MAX_VALUES])
    return [value for value in values if _is_allowed(value, allowed)]


def write(name: str, value: str | Sequence[str] | None) -> None:
    """Write one value or several into the address; None or an empty sequence removes the name."""
    values = [value] if isinstance(value, str) else list(value or [])
    if values == st.query_params.get_all(name):
        return
    if values:
        st.query_params[name] = values if len(values) > 1 else values[0]
    else:
        st.query_params.pop(name, None)


def forget(*names: str) -> None:
    """Reset the widgets of `choose` and `choose_many` under these names to their defaults."""
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
    """Draw a select box of ids bound to the address under `name`; return the chosen id.

    options: must not be empty. labels: the text shown for each id. default: the id if the address
    names none (else the first option). follows: the default depends on another widget, so only
    an explicit choice is written. widget: further arguments of st.selectbox.
    """
    requested = _given(label, options, name)
    start = default if default in options else options[0]
    start = requested[-1] if requested else start
    chosen = _bound(st.selectbox, label, options, name, start, labels, widget)
    write(name, None if follows and not requested else chosen)
    return str(chosen)


def choose_run(
    label: str, runs: Sequence[Run], name: str, *, default: str | None = None, **widget: Any
) -> Run:
    """Draw a select box of runs bound to the address under `name`; return the chosen run.

    A run is shown by its name and the beginning of its id, with its kind if kinds differ and its
    status unless it is finished. runs: must not be empty.
    """
    by_id = {run.id: run for run in runs}
    mixed = len({run.kind for run in runs}) > 1
    labels = {
        run.id: f"{f'{run.kind}: ' if mixed else ''}{short(run.name, 90)} ({run.id[:6]})"
        + ("" if run.status == "finished" else f", {run.status}")
        for run in runs
    }
    return by_id[choose(label, list(by_id), name, labels=labels, default=default, **widget)]


def segment(
    label: str,
    options: Mapping[str, str],
    name: str,
    *,
    default: str | None = None,
    follows: bool = False,
    **widget: Any,
) -> str:
    """Draw a segmented control bound to the address under `name`; return the chosen id.

    options: labels by id. The first is the default, which is not written; a default that depends
    on what the workspace holds is given, and written. follows: the default depends on another
    widget, so only another choice is written. Unknown ids are ignored.
    """
    first = next(iter(options))
    start, widget = read(name, options, default or first), {"required": True} | widget
    chosen = _bound(st.segmented_control, label, list(options), name, start, options, widget)
    unwritten = first if default is None else default if follows else None
    write(name, None if chosen == unwritten else chosen)
    return str(chosen)


def choose_many(
    label: str,
    options: Sequence[str],
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    default: Sequence[str] = (),
    draw: Any = st.multiselect,
    **widget: Any,
) -> list[str]:
    """Draw a widget of several ids bound to the address under `name`; return the chosen ids."""
    requested = _given(label, options, name)
    # A selection that was emptied on purpose is not a first visit.
    first_visit = f"choose-{name}" not in st.session_state
    start = [value for value in default if value in options] if first_visit else []
    chosen = _bound(draw, label, options, name, requested or start, labels, widget)
    write(name, chosen)
    return [str(value) for value in chosen]


def distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the text that a widget shows for each id, short, with the id where texts are equal.

    Streamlit finds a chosen option by its text, so that of two equal ones it takes the wrong one.
    """
    texts = {option: short(label, 120) for option, label in labels.items()}
    for length in (6, None):
        counts = Counter(texts.values())
        for option, text in texts.items():
            if counts[text] > 1:
                texts[option] = f"{short(labels[option], 100)} ({option[:length]})"
    return texts


def _given(label: str, options: Sequence[str], name: str) -> list[str]:
    """Return the known ids of the address, and warn about unknown ones."""
    unknown = [value for value in st.query_params.get_all(name) if value not in options]
    if unknown:
        st.warning(
            f"The address names an unknown value for “{label}”; it is ignored: "
            f"{escaped(', '.join(unknown))}",
            icon=":material/link_off:",
        )
    requested = dict.fromkeys(st.query_params.get_all(name)[:MAX_VALUES])
    return [value for value in requested if value in options]


def _bound(
    draw: Callable[..., Any],
    label: str,
    options: Sequence[str],
    name: str,
    value: Any,
    labels: Mapping[str, str] | None,
    widget: dict[str, Any],
) -> Any:
    """Draw a widget that has a value and writes it to the address when it changes."""
    key = f"choose-{name}"
    st.session_state[key] = value
    texts = distinct({option: (labels or {}).get(option, option) for option in options})
    return draw(
        label,
        options,
        key=key,
        format_func=lambda option: texts.get(option, option),
        on_change=lambda: write(name, st.session_state[key]),
        **widget,
    )


def _is_allowed(value: str, allowed: Allowed) -> bool:
    if len(value) > MAX_LENGTH:
        return False
    return allowed(value) if callable(allowed) else value in allowed
