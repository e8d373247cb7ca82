"""The prefix store: keys and values on disk equal computed ones, also with damaged files."""

import os
import stat

import pytest
import torch
from tiny import tiny_backbone_folder

from puma_engine.backbone import Context, FrozenBackbone, Reader
from puma_engine.backbone.prefix_store import PrefixStore, store_key
from puma_engine.backbone.templates import TEMPLATES, get_template

TITLES = ["Dune by Frank Herbert", "Emma", "The Hobbit, or there and back again", "It", "Sula"]
CONTEXTS = [Context(title) for title in TITLES]
ROWS = torch.arange(len(CONTEXTS))
MIB = 1 << 20


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return FrozenBackbone.load(tiny_backbone_folder(tmp_path_factory.mktemp("m")), device="cpu")


@pytest.fixture
def store(backbone, tmp_path):
    return PrefixStore(tmp_path / "items", store_key("abc", backbone.dtype), 64 * MIB)


def answers(backbone, store, contexts=CONTEXTS, name="rating-prompt-last"):
    """Logits of every context, and the keys and values of the reader."""
    reader = Reader(backbone, get_template(name), contexts, store=store)
    prompts = torch.linspace(-1, 1, len(contexts) * backbone.width).view(len(contexts), 1, -1)
    with torch.no_grad():
        return reader.logits(prompts, torch.arange(len(contexts))), reader._cache.layers


def files(store):
    return sorted(store.folder.rglob("*.kv"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_items_read_from_disk_equal_the_computed_ones_bit_for_bit(backbone, store, name):
    computed, layers = answers(backbone, store, name=name)
    again, from_disk = answers(backbone, store, name=name)
    assert torch.equal(again, computed)
    assert all(torch.equal(*pair) for pair in zip(layers, from_disk, strict=True))
    template = get_template(name)
    stored = template.item_first and not template.uses_history
    assert store.hits == (len(CONTEXTS) if stored else 0)
    plain, _ = answers(backbone, None, name=name)
    torch.testing.assert_close(computed, plain, atol=1e-5, rtol=0)


def test_items_are_shared_between_sets_of_items(backbone, store):
    """Sets of items differ in the tokens that all their items begin with."""
    answers(backbone, store)
    for chosen in ([0], [1, 3], [4, 2, 0]):
        store.forget()
        part, _ = answers(backbone, store, [CONTEXTS[number] for number in chosen])
        plain, _ = answers(backbone, None, [CONTEXTS[number] for number in chosen])
        assert store.hits == len(chosen)
        torch.testing.assert_close(part, plain, atol=1e-5, rtol=0)
    more = [*CONTEXTS, Context("Ulysses")]
    store.forget()
    answers(backbone, store, more)
    assert store.hits == len(CONTEXTS) and len(files(store)) == len(more)


def test_another_precision_and_another_model_share_nothing(backbone, store):
    answers(backbone, store)
    keys = {
        store.key,
        store_key("abc", torch.bfloat16),
        store_key("abd", backbone.dtype),
        store_key("abc", backbone.dtype, "8bit"),
    }
    assert len(keys) == 4
    other = PrefixStore(store.folder, store_key("abd", backbone.dtype), store.budget)
    answers(backbone, other)
    assert other.hits == 0


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty", "other content"])
def test_a_damaged_file_is_computed_again(backbone, store, damage):
    computed, _ = answers(backbone, store)
    file, other = files(store)[:2]
    content = bytearray(file.read_bytes())
    if damage == "a bit":
        content[-1] ^= 4
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(b"no tensors" * 9)
    file.write_bytes(content)
    store.forget()
    again, _ = answers(backbone, store)
    assert store.hits == len(CONTEXTS) - 1
    torch.testing.assert_close(again, computed, atol=1e-6, rtol=0)
    store.forget()
    answers(backbone, store)
    assert store.hits == len(CONTEXTS) and other.is_file()


def test_files_are_private_and_the_least_recently_used_are_removed_first(backbone, store):
    answers(backbone, store)
    written = files(store)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in written)
    assert stat.S_IMODE(written[0].parent.stat().st_mode) == 0o700
    for age, file in enumerate(written):
        os.utime(file, (1e9 - age, 1e9 - age))
    # The oldest file is read, so it is removed last.
    store.forget()
    answers(backbone, store, [CONTEXTS[0]])
    used = [file for file in written if file.stat().st_mtime > 1e9]
    assert len(used) == 1
    store.budget = int(used[0].stat().st_size / 0.85)
    store.make_room()
    assert files(store) == used


def test_no_more_than_the_budget_is_written(backbone, tmp_path):
    unlimited = PrefixStore(tmp_path / "whole", "k", 64 * MIB)
    answers(backbone, unlimited)
    size = sum(file.stat().st_size for file in files(unlimited))
    limited = PrefixStore(tmp_path / "half", "k", size // 2)
    first, _ = answers(backbone, limited)
    assert 0 < sum(file.stat().st_size for file in files(limited)) <= size // 2
    limited.forget()
    again, _ = answers(backbone, limited)
    assert 0 < limited.hits < len(CONTEXTS)
    torch.testing.assert_close(again, first, atol=1e-6, rtol=0)


def test_a_folder_that_cannot_be_written_is_no_failure(backbone, tmp_path):
    (tmp_path / "blocked").write_text("in the way")
    store = PrefixStore(tmp_path / "blocked", "k", 64 * MIB)
    computed, _ = answers(backbone, store)
    plain, _ = answers(backbone, None)
    torch.testing.assert_close(computed, plain, atol=1e-6, rtol=0)
