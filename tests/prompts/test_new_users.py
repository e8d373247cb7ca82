"""New users: fitted on their rows from the mean prompt with a frozen head."""

import dataclasses

import numpy as np
import pytest

from puma_engine.backbone import FrozenBackbone
from puma_engine.config import TrainingConfig
from puma_engine.datasets import load_shipped
from puma_engine.errors import DataError
from puma_engine.evaluation.prediction import predict
from puma_engine.exchange.prompt_formats import read_prompts
from puma_engine.pipeline.demo_files import prompt_file
from puma_engine.prompts.new_users import fit_new_users, mean_prompts
from puma_engine.prompts.table import PromptTable

TEMPLATE = "rating-item-first"
FEW = TrainingConfig(epochs=12, batch_size=512, learning_rate=2e-2)


@pytest.fixture(scope="module")
def world():
    """The shipped prompts of the demo without eight of its users, who act as new users."""
    data = load_shipped("goodbooks", users=600)
    backbone = FrozenBackbone.load("llama-small", device="cpu", precision="fp32")
    file = read_prompts(prompt_file())
    shipped = PromptTable(np.array(file.user_ids), file.vectors, file.head)
    new = data.for_users(data.users[100:108])
    other_users = np.setdiff1d(shipped.user_ids, new.users)
    return backbone, new, PromptTable(other_users, shipped.take(other_users), shipped.head)


def test_fitted_prompts_of_new_users_beat_the_mean_prompt_on_their_rows(world):
    backbone, new, known = world
    fitted = fit_new_users(backbone, new, known, template=TEMPLATE, training=FEW)
    mean = mean_prompts(known, new.users)
    assert fitted.user_ids.tolist() == new.users.tolist()
    np.testing.assert_allclose(mean.vectors[3], known.vectors.mean(0), rtol=1e-6)
    y = new.rows("train")["outcome"].to_numpy(float)
    losses = [
        np.mean((predict(backbone, table, new, "train", template=TEMPLATE) - y) ** 2)
        for table in (fitted, mean)
    ]
    assert losses[0] < 0.95 * losses[1]
    for name, values in known.head.items():
        np.testing.assert_array_equal(fitted.head[name], values)


def test_a_user_without_rows_has_the_mean_prompt(world):
    backbone, new, known = world
    silent = new.users[0]
    rows = new.interactions
    rows = rows[~((rows["user_id"] == silent) & (rows["split"] == "train"))]
    quiet = dataclasses.replace(new, interactions=rows.reset_index(drop=True))
    fitted = fit_new_users(backbone, quiet, known, template=TEMPLATE, training=FEW)
    moved = np.abs(fitted.vectors - known.vectors.mean(0)).max((1, 2))
    assert moved[fitted.rows_of([silent])[0]] < 1e-6
    assert (np.delete(moved, fitted.rows_of([silent])[0]) > 1e-3).all()


def test_known_users_and_tables_without_a_head_are_refused(world):
    backbone, new, known = world
    both = dataclasses.replace(known, user_ids=np.append(known.user_ids[1:], new.users[0]))
    with pytest.raises(DataError, match="1 users have a prompt"):
        fit_new_users(backbone, new, both, template=TEMPLATE, training=FEW)
    without_head = dataclasses.replace(known, head=None)
    with pytest.raises(DataError, match="no head"):
        fit_new_users(backbone, new, without_head, template=TEMPLATE, training=FEW)
