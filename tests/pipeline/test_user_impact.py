"""The stored user impact of a comparison equals that of its table of users."""

import compared
import pandas as pd
import pytest
from store_edits import edited

from puma_engine import pipeline
from puma_engine.evaluation.user_effects import (
    LIKELY,
    LISTED_USERS,
    effects_between,
    measure_user_impact,
    with_values,
)
from puma_engine.pipeline.user_impact import load_user_impact
from puma_engine.pipeline.verdicts import user_impact_between


@pytest.fixture(scope="module", params=["rating", "click"])
def world(request, tmp_path_factory):
    return compared.workspace(tmp_path_factory.mktemp("effects"), task=request.param, hurt=6)


def sides(world, name="few"):
    ws, run = world["ws"], world["ws"].run(world["comparison"].id)
    evaluation = world["runs"][name].id
    users = pipeline.comparison_users(ws, run)
    ratings = run.summary["task"] == "rating"
    return load_user_impact(ws, run, evaluation), measure_user_impact(
        users, evaluation, run.inputs["reference"], ratings=ratings
    )


def test_stored_impact_equals_the_impact_computed_from_users(world):
    stored, computed = sides(world)
    for name in ("better", "worse"):
        assert getattr(stored, name) == getattr(computed, name)
    for name in ("threshold", "spread", "repeated", "users", "rows"):
        assert getattr(stored.effects, name) == getattr(computed.effects, name)
    pd.testing.assert_frame_equal(
        stored.effects.frame, computed.effects.frame.reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(stored.sample, computed.sample.reset_index(drop=True))
    pd.testing.assert_frame_equal(stored.bars, computed.bars)
    for by, table in computed.groups.items():
        pd.testing.assert_frame_equal(stored.groups[by], table)


def test_stored_impact_counts_all_users_and_lists_all_likely_regressions(world, monkeypatch):
    monkeypatch.setattr("puma_engine.evaluation.user_effects.LISTED_USERS", 1)
    ws, run = world["ws"], world["comparison"]
    users = pipeline.comparison_users(ws, run)
    effects = effects_between(users, world["runs"]["few"].id, run.inputs["reference"])
    _, impact = sides(world)
    assert impact.effects.users == len(users) == 60 and impact.effects.rows == users["n"].sum()
    assert len(impact.effects.frame) < len(users)
    assert impact.effects.worse(LIKELY).equals(effects.worse(LIKELY)) and len(effects.worse(LIKELY))
    assert impact.bars["users"].sum() == 60
    gaps = with_values(effects.frame, ratings=run.summary["task"] == "rating")["gap"]
    assert impact.worse == (gaps > 0).mean()


def test_impact_is_stored_for_methods_with_prompts_and_computed_for_old_comparisons(world):
    ws, run = world["ws"], world["comparison"]
    summary = ws.get_table(run.id, "effects")
    expected = {run.id for name, run in world["runs"].items() if name != "again"}
    assert set(summary["evaluation"]) == expected and len(summary) == len(expected)
    before = pipeline.judge_comparison(ws, run)
    stored = user_impact_between(ws, run, world["runs"]["few"].id)
    with edited(ws) as db:
        db.execute("DELETE FROM artifacts WHERE name LIKE 'effects%'")
    assert pipeline.judge_comparison(ws, run) == before
    again = user_impact_between(ws, run, world["runs"]["few"].id)
    assert again.effects.frame.head(LISTED_USERS)["user_id"].tolist() == (
        stored.effects.frame["user_id"].tolist()
    )
