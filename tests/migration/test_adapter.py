"""The adapter is the paper's network, and the task heads do what they say."""

import numpy as np
import pytest
import torch

from puma_engine.backbone.tasks import RatingHead, get_task
from puma_engine.config import AdapterConfig
from puma_engine.errors import ConfigError
from puma_engine.migration.adapter import Adapter, balance
from puma_engine.migration.adapter_training import load_adapter


def test_the_paper_s_adapter_has_its_number_of_parameters():
    with torch.device("meta"):
        adapter = Adapter(2048, 3072)
    assert sum(p.numel() for p in adapter.parameters()) == 88_128_512


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize("tokens", [1, 4])
def test_depth_and_prompt_length(depth, tokens):
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, depth=depth, dropout=0.0))
    prompts = torch.randn(5, tokens, 6)
    moved = adapter(prompts)
    assert moved.shape == (5, tokens, 10)
    torch.testing.assert_close(moved[2, -1], adapter(prompts[2, -1]))


def test_residuals_stand_where_the_paper_has_them():
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, dropout=0.0))
    with torch.no_grad():
        for number in (0, 2):
            adapter.blocks[number].layers[-1].weight.zero_()
            adapter.blocks[number].layers[-1].bias.zero_()
    prompts = torch.randn(3, 1, 6)
    without = adapter.blocks[3](adapter.blocks[1](prompts))
    torch.testing.assert_close(adapter(prompts), without)


def test_the_same_generator_gives_the_same_adapter():
    first, second = (
        Adapter(6, 10, AdapterConfig(hidden=8), generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize("most", [1.0, 3.0])
def test_balance_bounds_what_users_share_by_what_sets_them_apart(most):
    rng = np.random.default_rng(0)
    near = 4 + 0.05 * rng.normal(size=(300, 2, 8))
    far = 0.1 + rng.normal(size=(300, 2, 5))
    vectors = np.concatenate([near, far], axis=2).astype(np.float32)
    gain, shift = balance(vectors, [8, 5], most)
    read = vectors * gain + shift
    np.testing.assert_array_equal(read[..., 8:], vectors[..., 8:])
    own, was = read[..., :8], vectors[..., :8]
    assert rms(own.mean(0)) == pytest.approx(most * rms(own.std(0)), rel=1e-3)
    assert rms(own) == pytest.approx(rms(was), rel=1e-3)
    apart, before = own - own.mean(0), was - was.mean(0)
    np.testing.assert_allclose(apart / rms(apart), before / rms(before), atol=1e-3)
    direction = own.mean(0) / rms(own.mean(0))
    np.testing.assert_allclose(direction, was.mean(0) / rms(was.mean(0)), atol=1e-3)


@pytest.mark.parametrize(
    "vectors", [np.ones((9, 1, 4)), np.array([[[1.0, -1.0]], [[-1.0, 1.0]]]), np.eye(6)[:, None]]
)
def test_prompts_that_need_no_balance_are_read_as_they_are(vectors):
    assert balance(vectors, [vectors.shape[2]], 1.0) is None


def test_an_adapter_that_reads_balanced_prompts_is_kept_with_how_it_reads_them():
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, dropout=0.0))
    prompts, gain, shift = torch.randn(5, 2, 6), torch.rand(2, 6), torch.randn(2, 6)
    plain = adapter(prompts * gain + shift)
    assert "gain" not in adapter.state_dict()
    adapter.read_as(gain, shift)
    torch.testing.assert_close(adapter(prompts), plain)
    tensors = {name: value.numpy() for name, value in adapter.state_dict().items()}
    again = load_adapter(tensors, {"d_in": 6, "d_out": 10, "hidden": 8, "depth": 4, "dropout": 0.0})
    torch.testing.assert_close(again(prompts), plain)


def test_a_limit_shortens_what_is_long_keeps_directions_and_is_kept_itself():
    adapter = Adapter(6, 10, AdapterConfig(hidden=8, dropout=0.0))
    prompts = 3 * torch.randn(5, 2, 6)
    free = adapter(prompts).detach()
    assert "longest" not in adapter.state_dict()
    for longest in (1e-3, 0.7, 1e6):
        adapter.keep_below(torch.tensor(longest))
        kept = adapter(prompts).detach()
        assert (kept.norm(dim=-1) < longest).all()
        torch.testing.assert_close(
            torch.nn.functional.cosine_similarity(kept, free, dim=-1), torch.ones(5, 2)
        )
    torch.testing.assert_close(kept, free)
    tensors = {name: value.numpy() for name, value in adapter.state_dict().items()}
    again = load_adapter(tensors, {"d_in": 6, "d_out": 10, "hidden": 8, "depth": 4, "dropout": 0.0})
    torch.testing.assert_close(again(prompts), adapter(prompts))


def test_wrong_settings_are_reported_together():
    with pytest.raises(ConfigError, match=r"hidden.*depth.*dropout"):
        AdapterConfig(hidden=0, depth=1, dropout=1.0)


def test_rating_head_ignores_a_common_offset_and_starts_at_the_mean():
    head = RatingHead(3.9, torch.Generator().manual_seed(0))
    assert [tuple(p.shape) for p in head.parameters()][::2] == [(32, 5), (12, 32), (1, 12)]
    logits = torch.randn(7, 5)
    torch.testing.assert_close(head(logits), head(logits + 17.0))


def test_rating_loss_is_the_hybrid_of_squared_error_and_cross_entropy():
    task = get_task("rating")
    head = RatingHead(3.0)
    logits, outcome = torch.randn(6, 5), torch.tensor([1.0, 2, 3, 4, 5, 5])
    wanted = 0.8 * (head(logits) - outcome) ** 2 + 0.2 * torch.nn.functional.cross_entropy(
        logits, outcome.long() - 1, reduction="none"
    )
    torch.testing.assert_close(task.loss(logits, outcome, head), wanted)


def test_a_half_star_is_shared_between_its_neighbours():
    task = get_task("rating")
    head = RatingHead(3.0)
    logits = torch.randn(1, 5)
    low, half, high = (task.loss(logits, torch.tensor([y]), head) for y in (2.0, 2.5, 3.0))
    entropy = [
        loss - 0.8 * (head(logits) - y) ** 2 for loss, y in ((low, 2.0), (half, 2.5), (high, 3.0))
    ]
    torch.testing.assert_close(entropy[1], (entropy[0] + entropy[2]) / 2)


def test_click_predictions_are_probabilities_of_yes_against_no():
    task = get_task("click")
    head = task.head(0.5, torch.Generator())
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(task.predict(logits, head), torch.sigmoid(torch.tensor([2.0, -2.0])))


def test_unknown_tasks_are_named():
    with pytest.raises(ConfigError, match="rating, click"):
        get_task("ranking")
