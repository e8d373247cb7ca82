"""Maps: alignment, agreement, clusters, seeds, and the run that stores them by user id."""

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_backbone_folder

from puma_engine import pipeline
from puma_engine.errors import ConfigError, DataError
from puma_engine.maps.projection import NearestCluster, OutOfSampleProjector, align, project
from puma_engine.prompts.table import PromptTable
from puma_engine.store import Workspace

IDS = np.array([f"u{number:03}" for number in range(90)])


def blobs(width=8, seed=0):
    """Three groups of thirty users each, far apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=5, size=(3, width))
    return np.repeat(centres, 30, axis=0) + rng.normal(scale=0.3, size=(90, width))


def rotated_and_shifted(points):
    angle = 1.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return 3 * points @ turn @ np.diag([1, -1]) + [40, -7]


def test_align_undoes_translation_rotation_reflection_and_scale():
    fixed = np.random.default_rng(1).normal(size=(50, 2))
    laid, misfit = align(rotated_and_shifted(fixed), fixed)
    np.testing.assert_allclose(laid, fixed, atol=1e-9)
    assert misfit == pytest.approx(0, abs=1e-12)
    strangers = np.random.default_rng(2).normal(size=(50, 2))
    assert 0.5 < align(strangers, fixed)[1] <= 1


def test_align_of_equal_points_is_finite():
    flat, spread = np.ones((4, 2)), np.arange(8.0).reshape(4, 2)
    assert align(flat, flat)[1] == 0
    assert align(flat, spread)[1] == align(spread, flat)[1] == 1


def test_a_rotated_table_gives_the_same_map_and_full_agreement():
    source = blobs()
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(8, 8)))[0]
    projection = project(IDS, source, 2 * source @ rotation, method="pca", clusters=3)
    np.testing.assert_allclose(projection.migrated, projection.source, atol=1e-3)
    assert projection.measures["misfit"] == pytest.approx(0, abs=1e-6)
    assert projection.measures["shared_neighbours"] == 1
    groups = projection.cluster.reshape(3, 30)
    assert (groups == groups[:, :1]).all() and len(np.unique(groups)) == 3


def test_shuffled_prompts_share_few_neighbours():
    source = blobs()
    shuffled = source[np.random.default_rng(4).permutation(90)]
    facts = project(IDS, source, shuffled, method="pca").measures
    assert facts["shared_neighbours"] < 0.4 and facts["misfit"] > 0.5
    # Each map still preserves the neighbours of its prompts: trustworthiness is not agreement.
    assert facts["trust_source"] == pytest.approx(facts["trust_migrated"], abs=1e-6)
    assert facts["trust_users"] == 90 and facts["trust_neighbours"] == 15


def test_umap_is_seeded_and_separates_groups():
    source = blobs()
    projection = project(IDS, source, source, seed=5)
    repeated = project(IDS, source, source, seed=5)
    np.testing.assert_array_equal(projection.source, repeated.source)
    np.testing.assert_allclose(projection.migrated, projection.source, atol=1e-4)
    assert projection.source.dtype == np.float32 and projection.measures["trust_source"] > 0.9
    centres = projection.source.reshape(3, 30, 2).mean(axis=1)
    spread = projection.source.reshape(3, 30, 2).std(axis=1).max()
    assert min(np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > (
        2 * spread
    )


def test_equal_or_one_dimensional_prompts_have_a_finite_map():
    projection = project(IDS, np.ones((90, 4)), blobs(1)[:, :1], method="pca")
    assert np.isfinite(projection.source).all() and np.isfinite(projection.migrated).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "tsne"}, ConfigError, "umap or pca"),
        ({"clusters": 0}, ConfigError, "1 cluster"),
        ({"neighbours": 1}, ConfigError, "2 neighbours"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(settings, error, message):
    with pytest.raises(error, match=message):
        project(IDS, blobs(), blobs(), **settings)


def test_too_few_users_are_refused_with_the_reason():
    with pytest.raises(DataError, match="5 users"):
        project(IDS[:4], blobs()[:4], blobs()[:4], method="pca")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with one data set and two prompt tables, the second in another user order."""
    folder = tmp_path_factory.mktemp("world")
    ws = Workspace.open(folder / "ws", create=True)
    rows = [
        {"user_id": user, "item_id": f"i{item}", "outcome": 1 + (item * number) % 5, "text": "Book"}
        for number, user in enumerate(IDS)
        for item in range(8)
    ]
    pd.DataFrame(rows).to_csv(folder / "ratings.csv", index=False)
    data = pipeline.import_dataset(ws, "table", path=folder / "ratings.csv", task="rating")
    model = pipeline.add_backbone(ws, tiny_backbone_folder(folder))
    vectors = blobs(width=8).astype(np.float32)[:, None, :]
    order = np.random.default_rng(6).permutation(90)
    runs = {
        "source": store_prompts(ws, data, model, "source", IDS, vectors),
        "migrated": store_prompts(ws, data, model, "retrained", IDS[order], vectors[order]),
    }
    return ws, runs


def store_prompts(ws, data, model, role, ids, vectors):
    run = ws.begin(
        "prompts",
        name=role,
        config={"role": role},
        inputs={"dataset": data.id, "backbone": model.id},
    )
    pipeline.stored_prompts.save_prompts(ws, run.id, PromptTable(ids, vectors, None, {}))
    return ws.finish(run.id, seconds=1, device="cpu")


def test_a_projection_run_joins_by_user_id_and_is_stored(world):
    ws, runs = world
    run = pipeline.project(ws, runs["source"], runs["migrated"], method="pca", clusters=3)
    table = ws.get_table(run.id, "map")
    assert table["user_id"].tolist() == IDS.tolist()
    # The second table has the same prompts in another order, so maps joined by id agree.
    np.testing.assert_allclose(table["migrated_x"], table["source_x"], atol=1e-3)
    space, ids, _ = ws.get_tensors(run.id, "space")
    assert space["space"].shape == (90, 8) and ids == IDS.tolist()
    assert run.summary["users"] == run.summary["drawn"] == 90
    assert sorted(run.summary["cluster_sizes"]) == [30, 30, 30]
    assert table["variance"].between(0, 4).all()
    assert pipeline.project(ws, "source", "retrained", method="pca", clusters=3) == run


def test_users_beyond_the_limit_are_sampled_and_still_projected(world):
    ws, runs = world
    run = pipeline.project(ws, runs["source"], runs["migrated"], method="pca", most=20)
    assert run.summary["users"] == 90 and run.summary["drawn"] == 20
    sampled = ws.get_table(run.id, "map").set_index("user_id")
    assert len(sampled) == 20
    all_users = ws.get_table(run.id, "places").set_index("user_id")
    assert all_users.index.tolist() == IDS.tolist()
    pd.testing.assert_frame_equal(all_users.loc[sampled.index], sampled)
    # The second table has the same prompts, so each user has one position on both maps.
    np.testing.assert_allclose(all_users["migrated_x"], all_users["source_x"], atol=1e-3)
    with pytest.raises(ConfigError, match="not 3"):
        pipeline.project(ws, runs["source"], runs["migrated"], most=3)


def test_principal_components_project_other_users_exactly():
    prompts = blobs()
    projection = project(IDS, prompts, prompts, method="pca")
    projector = OutOfSampleProjector(
        prompts[:60], projection.space[:60], projection.source[:60], "pca"
    )
    np.testing.assert_allclose(projector(prompts), projection.source, atol=1e-4)


def test_other_users_are_projected_to_their_nearest_sampled_users():
    prompts = blobs()
    projection = project(IDS, prompts, prompts, method="pca", clusters=3)
    # A map on which each group has a corner.
    corner = np.eye(3)[projection.cluster][:, :2]
    projector = OutOfSampleProjector(prompts[::2], projection.space[::2], corner[::2], "umap")
    np.testing.assert_allclose(projector(prompts[::2]), corner[::2], atol=1e-6)
    np.testing.assert_allclose(projector(prompts), corner, atol=1e-6)
    assert (
        NearestCluster(prompts[::2], projection.cluster[::2])(prompts).tolist()
        == projection.cluster.tolist()
    )
