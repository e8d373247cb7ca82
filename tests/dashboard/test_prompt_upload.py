"""New migration with prompts from elsewhere: a team's file becomes what `puma prompts import` makes."""

import io

import numpy as np
import pandas as pd
import pytest
from dashboard_pages import open_page, press, words
from small_runs import write_ratings
from tiny import tiny_backbone_folder

from dashboard.engine import prompt_files
from dashboard.engine.uploads import Upload
from puma_engine import jobs, pipeline
from puma_engine.errors import DataError
from puma_engine.exchange.prompt_formats import READERS, read_prompts
from puma_engine.jobs.runner import execute
from puma_engine.store import Workspace

WIDTH = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with data and two models, without any prompts; the models' runs and the users."""
    folder = tmp_path_factory.mktemp("upload")
    ws = Workspace.open(folder / "ws", create=True)
    path = write_ratings(folder / "ratings.csv")
    data = pipeline.import_dataset(ws, "table", path=path, task="rating", name="books")
    old, new = (
        pipeline.add_backbone(ws, tiny_backbone_folder(folder / "models", family, width=width))
        for family, width in (("llama", WIDTH), ("qwen2", 48))
    )
    users = np.array(sorted(set(ws.get_table(data.id, "interactions")["user_id"])), dtype=str)
    return ws, data, old, new, users


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    monkeypatch.setattr(jobs, "ensure_worker", lambda ws: None)


def prompts(users, tokens=1):
    vectors = np.random.default_rng(0).normal(size=(len(users), tokens * WIDTH)) * 0.05
    return vectors.astype(np.float32)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def table(users, columns=4):
    frame = pd.DataFrame(np.random.default_rng(1).normal(size=(len(users), columns)))
    frame.insert(0, "user_id", users)
    return frame.to_csv(index=False).encode()


def see(world, monkeypatch, old, **query):
    ws, data, _, new, _ = world
    app = open_page(
        "plan",
        ws.root,
        monkeypatch,
        dataset=data.id,
        old=old,
        target=new.id,
        step="prompts",
        **query,
    )
    assert not app.exception, app.exception
    return app


def give(app, name, content, box="prompts-file"):
    app.file_uploader(box).set_value((name, content, "application/octet-stream")).run()
    assert not app.exception, app.exception
    return app


def run_job(ws):
    job = jobs.jobs(ws)[0]
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET status = 'running', attempt = 1 WHERE id = ?", [job.id])
    execute(ws, job.id, 1)
    return jobs.job(ws, job.id)


def test_prompts_of_a_file_start_a_migration_and_are_those_of_the_command(
    world, tmp_path, monkeypatch
):
    ws, data, old, _, users = world
    content = npz(user_ids=users, vectors=prompts(users))
    app = give(see(world, monkeypatch, old.id), "ours.npz", content)
    assert f"{len(users)} users, 1 token of {WIDTH} numbers each" in words(app)
    app.checkbox("prompts-head").uncheck().run()
    app = press(app, "Import the prompts")
    assert "Import prompts of ours.npz" in words(app).replace("\\", "")
    job = run_job(ws)
    assert job.status == "finished", job.error
    app = see(world, monkeypatch, old.id, **{"import-prompts": job.id})
    assert app.selectbox("choose-source").value == job.run_id
    assert "import-prompts" not in app.query_params
    app = press(app, "Continue")
    assert any(button.label == "Launch the migration" for button in app.button)
    path = tmp_path / "ours.npz"
    path.write_bytes(content)
    same = pipeline.import_prompts(ws, data, old.id, path, head="none")
    assert same.id == job.run_id


def test_user_ids_and_tokens_can_be_given_beside_an_array(world, monkeypatch):
    ws, _, old, _, users = world
    buffer = io.BytesIO()
    np.save(buffer, prompts(users, tokens=2))
    app = give(see(world, monkeypatch, old.id), "flat.npy", buffer.getvalue())
    app.toggle("prompts-have-users").set_value(True).run()
    app = give(app, "ids.txt", "\n".join(users).encode(), "prompts-users")
    app.number_input("prompts-tokens").set_value(2).run()
    assert f"{len(users)} users, 2 tokens of {WIDTH} numbers each" in words(app)
    app.checkbox("prompts-head").uncheck().run()
    press(app, "Import the prompts")
    job = run_job(ws)
    assert job.status == "finished", job.error
    run = ws.run(job.run_id)
    assert run.summary["tokens"] == 2 and run.inputs["backbone"] == old.id


def test_vectors_of_users_need_no_old_model(world, monkeypatch):
    ws, _, _, _, users = world
    app = see(world, monkeypatch, "vectors")
    assert next(button for button in app.button if button.label == "Continue").disabled
    app = give(app, "towers.csv", table(users))
    press(app, "Import the vectors")
    job = run_job(ws)
    assert job.status == "finished", job.error
    assert "backbone" not in ws.run(job.run_id).inputs
    app = see(world, monkeypatch, "vectors", **{"import-prompts": job.id})
    assert app.selectbox("choose-source").value == job.run_id
    app = press(app, "Continue")
    assert any(button.label == "Launch the migration" for button in app.button)


def test_imported_prompts_take_the_place_of_their_model_among_several(world, monkeypatch):
    ws, data, old, new, users = world
    app = open_page(
        "plan",
        ws.root,
        monkeypatch,
        dataset=data.id,
        topology="merge",
        olds=[old.id, new.id],
        target="llama-small",
        step="prompts",
    )
    app.selectbox("prompts-of").select(old.id).run()
    app = give(app, "other.npz", npz(user_ids=users, vectors=-prompts(users)))
    app.checkbox("prompts-head").uncheck().run()
    app = press(app, "Import the prompts")
    job = run_job(ws)
    assert job.status == "finished", job.error
    app = app.run()
    assert not app.exception and app.query_params["sources"] == [job.run_id, f"fit:{new.id}"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npz", b"PK\x03\x04 no archive", "x.npz cannot be read as NumPy arrays"),
        ("x.csv", b"user,0,1\na,1,2\n", "user_id"),
        ("x.parquet", b"PAR1", "cannot be read as Parquet"),
        ("x.safetensors", b"\x00" * 16, "x.safetensors"),
    ],
)
def test_a_file_without_prompts_is_refused_in_a_sentence(world, monkeypatch, name, content, says):
    ws, _, old, *_ = world
    before = len(jobs.jobs(ws))
    app = give(see(world, monkeypatch, old.id), name, content)
    assert app.error and says in words(app)
    assert "puma-upload-" not in words(app)
    assert not [button for button in app.button if button.label == "Import the prompts"]
    assert len(jobs.jobs(ws)) == before


def test_prompts_that_lack_users_fail_with_the_reason_and_others_can_be_chosen(world, monkeypatch):
    ws, _, old, _, users = world
    content = npz(user_ids=users[3:], vectors=prompts(users)[3:])
    app = give(see(world, monkeypatch, old.id), "few.npz", content)
    press(app, "Import the prompts")
    job = run_job(ws)
    assert job.status == "failed"
    app = see(world, monkeypatch, old.id, **{"import-prompts": job.id})
    assert f"3 of the {len(users)} users have no prompt" in words(app)
    app = press(app, "Choose other prompts")
    assert "import-prompts" not in app.query_params and app.file_uploader("prompts-file")


def test_the_page_takes_formats_that_the_command_reads():
    assert set(prompt_files.PROMPTS.endings) <= set(READERS)


def test_a_file_is_read_once_however_often_the_page_is_drawn(tmp_path, monkeypatch):
    read = []

    def count(path, **settings):
        read.append(path)
        return read_prompts(path, **settings)

    monkeypatch.setattr(prompt_files, "read_prompts", count)
    users = [f"u{number}" for number in range(5)]
    good = Upload("good.csv", io.BytesIO(table(users)), 1000, prompt_files.PROMPTS)
    bad = Upload("bad.csv", io.BytesIO(b"user_id\nu1\n"), 20, prompt_files.PROMPTS)
    for _ in range(3):
        assert prompt_files.content(good, None, None).users == 5
        with pytest.raises(DataError, match="bad.csv") as problem:
            prompt_files.content(bad, None, None)
        assert str(bad.path) not in str(problem.value)
    assert len(read) == 2
    # The same file in another way is another question.
    assert prompt_files.content(good, None, 2).tokens == 2 and len(read) == 3
