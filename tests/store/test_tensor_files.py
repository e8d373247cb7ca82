"""Partial reads of safetensors files, and refused headers that do not match the content."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from puma_engine.errors import StoreError
from puma_engine.exchange.packed import PromptShards
from puma_engine.files import TensorFile, load_tensors, save_tensors

USERS = [f"u{number}" for number in range(20)]
VECTORS = np.arange(80, dtype=np.float32).reshape(20, 1, 4)


def write_header(path, tensors, size):
    """Write a header as it is given, and so many bytes of data behind it."""
    header = {"__metadata__": {"meta": json.dumps({"user_ids": USERS})}}
    text = json.dumps(header | tensors).encode()
    data = VECTORS.tobytes().ljust(size, b"\0")[:size]
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def tensor(begin, end, shape=(20, 1, 4)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


HEADERS = {
    "another begin": ({"vectors": tensor(16, 336)}, 336),
    "overlapping": ({"vectors": tensor(16, 336), "other": tensor(0, 32, (8,))}, 336),
    "a gap": ({"vectors": tensor(32, 352), "other": tensor(0, 16, (4,))}, 352),
    "too short": ({"vectors": tensor(0, 320)}, 304),
    "too long": ({"vectors": tensor(0, 320)}, 336),
    "other shape": ({"vectors": tensor(0, 320, (19, 1, 4))}, 320),
    "no JSON": ({"vectors": "none"}, 320),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_does_not_match_the_content_is_refused(tmp_path, name):
    write_header(tmp_path / "p.safetensors", *HEADERS[name])
    for read in (
        lambda: TensorFile(tmp_path / "p.safetensors"),
        lambda: load_tensors(tmp_path / "p.safetensors"),
        lambda: PromptShards(tmp_path),
    ):
        with pytest.raises(StoreError, match=r"p.safetensors is damaged \(.*\); restore it"):
            read()


def test_the_same_content_with_a_correct_header_is_read(tmp_path):
    write_header(tmp_path / "p.safetensors", {"vectors": tensor(0, 320)}, 320)
    shards = PromptShards(tmp_path)
    assert shards.user_ids.tolist() == USERS
    np.testing.assert_array_equal(shards.take(np.arange(20)), VECTORS[:, 0])


def test_a_file_truncated_after_opening_is_refused(tmp_path):
    save_tensors(tmp_path / "p.safetensors", {"vectors": VECTORS})
    file = TensorFile(tmp_path / "p.safetensors")
    content = file.path.read_bytes()
    file.path.write_bytes(content[:-8])
    for read in (lambda: file.read("vectors", 3, 5), lambda: file.take("vectors", np.array([1]))):
        with pytest.raises(StoreError, match=re.escape("damaged")):
            read()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8, np.bool_])
def test_parts_of_a_tensor_equal_slices_of_the_array(tmp_path, dtype):
    array = (np.arange(3000) % 7).reshape(1000, 3).astype(dtype)
    save_tensors(tmp_path / "p.safetensors", {"a": array, "none": array[:0]}, {"x": 1})
    file = TensorFile(tmp_path / "p.safetensors")
    assert file.names() == ["a", "none"] and file.meta == {"x": 1}
    rows = np.random.default_rng(0).permutation(1000)
    for part, expected in (
        (file.read("a"), array),
        (file.read("a", 990, 2000), array[990:]),
        (file.take("a", rows), array[rows]),
        (file.take("a", rows[:0]), array[:0]),
        (file.read("none"), array[:0]),
    ):
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == dtype and part.shape == expected.shape


def test_bfloat16_is_read_as_float32(tmp_path):
    values = torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file({"vectors": values}, tmp_path / "p.safetensors")
    file, expected = TensorFile(tmp_path / "p.safetensors"), values.float().numpy()
    np.testing.assert_array_equal(file.read("vectors"), expected)
    np.testing.assert_array_equal(file.read("vectors", 2, 4), expected[2:4])
    np.testing.assert_array_equal(file.take("vectors", np.array([5, 0])), expected[[5, 0]])
    np.testing.assert_array_equal(load_tensors(file.path)[0]["vectors"], expected)
    assert file.read("vectors").dtype == np.float32
