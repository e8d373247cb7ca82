"""Functions that damage files: flip, cut, move or repeat bytes, exchange lines, insert quotes and odd numbers."""

import json
import random
import re
from collections.abc import Callable

ODD_NUMBERS = (
    *(b"NaN", b"nan", b"inf", b"-inf", b"-1", b"0", b"", b"1e999", b"-0.0", b"1e30", b"0x10"),
    *(b"99999999999999999999", b"1,5", b"4.5", b"9007199254740993", b"\xd9\xa3", b"1_0", b" 3 "),
)
ODD_BYTES = (b"\x00", b"\r", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\t", b"::")
QUOTES = (b'"', b"'", b'""', b'",', b',"', b"\\")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")

Damage = Callable[[bytes, random.Random], bytes]


def _place(data: bytes, draw: random.Random) -> int:
    return draw.randrange(len(data) + 1)


def flip(data: bytes, draw: random.Random) -> bytes:
    """Flip a bit of one to four bytes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_in_head(data: bytes, draw: random.Random) -> bytes:
    """Flip bits in the first 4 KiB, where binary formats have their headers."""
    return flip(data[:4096], draw) + data[4096:]


def cut(data: bytes, draw: random.Random) -> bytes:
    """Cut off the end."""
    return data[: _place(data, draw)]


def cut_out(data: bytes, draw: random.Random) -> bytes:
    """Remove some bytes from the middle."""
    start = _place(data, draw)
    return data[:start] + data[start + draw.randint(1, 200) :]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """Insert a copy of some bytes elsewhere."""
    start, target = _place(data, draw), _place(data, draw)
    return data[:target] + data[start : start + draw.randint(1, 200)] + data[target:]


def overwrite(data: bytes, draw: random.Random) -> bytes:
    """Overwrite a range with random bytes, or with zeros like a lost block."""
    start, length = _place(data, draw), draw.randint(1, 64)
    block = bytes(length) if draw.random() < 0.5 else draw.randbytes(length)
    return data[:start] + block + data[start + length :]


def insert_odd_bytes(data: bytes, draw: random.Random) -> bytes:
    """Insert a control character, a byte-order mark or a line end."""
    start = _place(data, draw)
    return data[:start] + draw.choice(ODD_BYTES) + data[start:]


def insert_quote(data: bytes, draw: random.Random) -> bytes:
    """Insert one or two quotation marks or a backslash."""
    for _ in range(draw.randint(1, 2)):
        start = _place(data, draw)
        data = data[:start] + draw.choice(QUOTES) + data[start:]
    return data


def exchange_number(data: bytes, draw: random.Random) -> bytes:
    """Replace one to three numbers by odd ones."""
    for _ in range(draw.randint(1, 3)):
        numbers = list(_NUMBER.finditer(data))
        if not numbers:
            return flip(data, draw)
        match = draw.choice(numbers)
        data = data[: match.start()] + draw.choice(ODD_NUMBERS) + data[match.end() :]
    return data


def swap_lines(data: bytes, draw: random.Random) -> bytes:
    """Exchange two lines, the header perhaps."""
    lines = data.split(b"\n")
    first, second = (draw.randrange(len(lines)) for _ in range(2))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def repeat_line(data: bytes, draw: random.Random) -> bytes:
    """Insert a copy of a line elsewhere."""
    lines = data.split(b"\n")
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return b"\n".join(lines)


def drop_line(data: bytes, draw: random.Random) -> bytes:
    """Remove a line, the header perhaps."""
    lines = data.split(b"\n")
    del lines[draw.randrange(len(lines))]
    return b"\n".join(lines)


def swap_fields(data: bytes, draw: random.Random) -> bytes:
    """Exchange two fields of a line, or drop one."""
    lines = data.split(b"\n")
    number = draw.randrange(len(lines))
    mark = next((m for m in (b"::", b"\t", b"|", b",") if m in lines[number]), b" ")
    fields = lines[number].split(mark)
    first, second = (draw.randrange(len(fields)) for _ in range(2))
    if first == second:
        del fields[first]
    else:
        fields[first], fields[second] = fields[second], fields[first]
    lines[number] = mark.join(fields)
    return b"\n".join(lines)


JSON_VALUES = (
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    [],
    {},
    [[[[]]]],
    "NaN",
    1e308,
)


def exchange_json_value(data: bytes, draw: random.Random) -> bytes:
    """Replace, remove or add a value of a JSON text; of one line, where each is a text."""
    lines = data.split(b"\n")
    number = draw.randrange(len(lines))
    whole = data.lstrip()[:1] in (b"{", b"[") and not lines[0].rstrip().endswith((b"}", b"]"))
    try:
        value = json.loads(data if whole or len(lines) == 1 else lines[number])
    except ValueError:
        return flip(data, draw)
    place = value
    while isinstance(place, dict | list) and place:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7:
            place = place[key]
            continue
        if draw.random() < 0.2:
            del place[key]
        else:
            place[key] = draw.choice(JSON_VALUES)
        break
    text = json.dumps(value).encode()
    if whole or len(lines) == 1:
        return text
    lines[number] = text
    return b"\n".join(lines)


BINARY: tuple[Damage, ...] = (flip, flip_in_head, cut, cut_out, repeat, overwrite)
LINES: tuple[Damage, ...] = (
    *(flip, cut, cut_out, repeat, overwrite, insert_odd_bytes, insert_quote, insert_quote),
    *(exchange_number, exchange_number, swap_lines, repeat_line, drop_line, swap_fields),
)
JSON: tuple[Damage, ...] = (
    *(flip, cut, cut_out, repeat, overwrite, insert_odd_bytes, insert_quote, exchange_number),
    *(exchange_json_value, exchange_json_value, exchange_json_value),
)
JSON_LINES: tuple[Damage, ...] = (*LINES, exchange_json_value, exchange_json_value)
