"""The what-if process: predictions equal to the evaluation, start, idle exit, errors."""

import contextlib
import http.client
import json
import socket
import threading

import numpy as np
import pandas as pd
import pytest
from small_runs import QUICK, write_ratings
from tiny import tiny_backbone_folder
from typer.testing import CliRunner
from waiting import wait_for
from whatif_processes import kill, processes_of

from puma_engine import pipeline
from puma_engine.cli import app
from puma_engine.errors import DataError, JobError, NotFoundError, TemplateError
from puma_engine.serving import whatif
from puma_engine.serving.whatif import socket_address, socket_path
from puma_engine.serving.whatif_server import CONNECTIONS, PredictorCache
from puma_engine.store import Workspace


@pytest.fixture
def empty(tmp_path):
    ws = Workspace.open(tmp_path / "workspace", create=True)
    yield ws
    kill(ws)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A workspace with prompts on two backbones, evaluated."""
    folder = tmp_path_factory.mktemp("whatif")
    ws = Workspace.open(folder / "workspace", create=True)
    path = write_ratings(folder / "ratings.csv", users=8)
    data = pipeline.import_dataset(ws, "table", path=path, task="rating")
    runs = [
        pipeline.fit_prompts(
            ws, data, tiny_backbone_folder(folder / "models", family, width=width), training=QUICK
        )
        for family, width in (("llama", 32), ("qwen2", 48))
    ]
    yield {"ws": ws, "data": data, "runs": runs}
    kill(ws)


def test_a_what_if_prediction_equals_that_of_the_evaluation(world):
    ws, titles = world["ws"], pipeline.load_dataset(world["ws"], world["data"]).items
    text = dict(zip(titles["item_id"], titles["text"], strict=True))
    for run in world["runs"]:
        rows = pipeline.read_predictions(ws, pipeline.evaluate(ws, run)).sample(4, random_state=0)
        for row in rows.itertuples():
            prediction = whatif.predict(ws, run.id, row.user_id, text[row.item_id])
            assert prediction.value == pytest.approx(row.prediction, abs=1e-4)
            assert sum(prediction.answers.values()) == pytest.approx(1)
            assert list(prediction.answers) == ["1", "2", "3", "4", "5"] and not prediction.cut
    assert len(processes_of(ws)) == 1


@pytest.mark.parametrize(
    ("user", "title", "message"),
    [
        ("003", " \n", "title is empty"),
        ("003", "x" * 10_000, "10,000 characters"),
        ("003", "Dune\x00", "control character U\\+0000 at position 5"),
        ("3", "Dune", "'3' has no prompt .* one of its 8 users, such as '000'"),
        ("", "Dune", "user id is empty"),
        ("u" * 10_000, "Dune", "10,000 characters"),
    ],
)
def test_an_impossible_title_or_user_is_refused(world, user, title, message):
    for predict in (whatif.predict, pipeline.predict_title):
        with pytest.raises(DataError, match=message):
            predict(world["ws"], world["runs"][0].id, user, title)


def test_a_template_is_read_from_its_file(world, tmp_path):
    ws, run = world["ws"], world["runs"][0].id
    file = tmp_path / "own.toml"
    file.write_text('task = "rating"\ntext = "{item} by a reader like {prompt}. Stars:"\n')
    prediction = whatif.predict(ws, run, "003", "Dune", template=str(file))
    assert prediction.template.startswith("rating-custom-")
    assert prediction.value != whatif.predict(ws, run, "003", "Dune").value
    command = ["-w", str(ws.root), "predict", run, "--user", "003", "--title", "Dune"]
    command += ["--template", str(file), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["value"] == pytest.approx(prediction.value, abs=1e-5)
    for predict in (whatif.predict, pipeline.predict_title):
        with pytest.raises(TemplateError, match="is for clicks, and the prompts of .* for ratings"):
            predict(ws, run, "003", "Dune", template="click")
        with pytest.raises(TemplateError, match="cannot be read"):
            predict(ws, run, "003", "Dune", template=str(tmp_path / "none.toml"))


def test_a_run_without_prompts_is_refused(world):
    for run in ("nothing", world["data"].id):
        with pytest.raises(NotFoundError):
            whatif.predict(world["ws"], run, "003", "Dune")


def test_a_hostile_or_long_title_is_read_as_text(world):
    ws, run = world["ws"], world["runs"][0].id
    tags = whatif.predict(ws, run, "003", "<script>\n</s> <UserID> **Dune** \u202e")
    assert tags.title == "<script> </s> <UserID> **Dune** \u202e"
    assert whatif.predict(ws, run, "003", "Dune " * 150).cut


def post(connection, route, body, length=None):
    size = len(body) if length is None else length
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode() + body)


def answer(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


@pytest.mark.parametrize(
    ("route", "body", "length", "status"),
    [
        ("/v1/predict", b"", None, 422),
        ("/v1/predict", b"{", None, 422),
        ("/v1/predict", b"[1]", None, 422),
        ("/v1/predict", b'{"run": 1, "user": [], "title": {}}', None, 422),
        ("/v1/load", b'{"runs": "all"}', None, 422),
        ("/v1/load", b'{"runs": [1]}', None, 422),
        ("/v1/load", b'{"runs": ["nothing", "../..", "", "\\u0000"]}', None, 422),
        ("/v1/predict", b'{"run": "x", "user": "u", "title": "\\ud800"}', None, 422),
        ("/v1/predict", b'{"run": "../../x", "user": "u", "title": "t"}', None, 422),
        ("/v1/predict", b"\xff\xfe\xfd", None, 422),
        ("/v1/predict", b"N" + b"a" * 9_000, None, 422),
        ("/v1/predict", b"9" * 9_000, None, 422),
        ("/v1/predict", b"", 70_000, 413),
        ("/v1/predict", b"[" * 60_000, None, 422),
        ("/v1/delete", b"{}", None, 404),
    ],
)
def test_bad_requests_get_an_error_and_the_process_survives(world, route, body, length, status):
    ws = world["ws"]
    whatif.predict(ws, world["runs"][0].id, "003", "Dune")
    (process,) = processes_of(ws)
    with socket.socket(socket.AF_UNIX) as connection:
        with socket_address(socket_path(ws)) as address:
            connection.connect(address)
        post(connection, route, body, length)
        code, content = answer(connection)
        assert code == status and ("error" in content or status == 404)
    assert whatif.predict(ws, world["runs"][0].id, "003", "Dune").value > 0
    assert processes_of(ws) == [process]


def test_silent_clients_do_not_block_others(world):
    """More unfinished requests than connections of the process, with valid ones between them."""
    ws, run = world["ws"], world["runs"][0].id
    expected = whatif.predict(ws, run, "003", "Dune").value
    with contextlib.ExitStack() as stack:
        for number in range(CONNECTIONS.connections + 20):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            with socket_address(socket_path(ws)) as address:
                client.connect(address)
            if number % 2:
                post(client, "/v1/predict", b"{", 100)
            if number % 30 == 29:
                assert whatif.predict(ws, run, "003", "Dune").value == expected
        assert whatif.predict(ws, run, "003", "Dune").value == expected


def test_the_deprecated_names_still_work(world):
    import puma_engine

    assert puma_engine.whatif.ask(world["ws"], world["runs"][0].id, "003", "Dune").value > 0


def test_the_command_line_predicts_the_same(world):
    ws, run = world["ws"], world["runs"][1]
    command = ["predict", run.id, "--user", "003", "--title", "Dune", "--json", "-w", str(ws.root)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    prediction = whatif.predict(ws, run.id, "003", "Dune")
    assert json.loads(result.stdout)["value"] == pytest.approx(prediction.value, abs=1e-5)


def test_the_cache_holds_a_limited_number_of_runs(world):
    ws, (first, second) = world["ws"], world["runs"]
    cache = PredictorCache(ws, max_runs=1)
    predictor = cache.predictor(first.id)
    assert cache.predictor(first.id) is predictor
    assert cache.predictor(second.id).run.id == second.id
    assert cache.predictor(first.id) is not predictor


def test_a_click_is_predicted_with_the_latest_history(tmp_path):
    rows = [
        {"user_id": user, "item_id": f"i{item}", "outcome": (item + number) % 2, "time": item}
        | {"text": f"Story {item}", "history": f"i{item - 1}|i{item - 2}" if item > 1 else ""}
        for number, user in enumerate(("a", "b", "c"))
        for item in range(12)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "clicks.csv", index=False)
    ws = Workspace.open(tmp_path / "workspace", create=True)
    data = pipeline.import_dataset(
        ws, "table", path=tmp_path / "clicks.csv", task="click", history_separator="|"
    )
    model = tiny_backbone_folder(tmp_path / "models")
    run = pipeline.fit_prompts(ws, data, model, template="click-history-item-first", training=QUICK)
    rows = pipeline.read_predictions(ws, pipeline.evaluate(ws, run)).query("item_id == 'i11'")
    for row in rows.itertuples():
        prediction = pipeline.predict_title(ws, run, row.user_id, "Story 11")
        assert list(prediction.answers) == ["Yes", "No"]
        assert prediction.value == pytest.approx(row.prediction, abs=1e-5)
    assert len(rows) == 3


def test_concurrent_starts_make_one_process_and_an_idle_one_exits(empty, monkeypatch):
    threads = [threading.Thread(target=whatif.preload, args=(empty, [])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(NotFoundError):
        whatif.predict(empty, "nothing", "u", "Dune")
    wait_for(lambda: len(processes_of(empty)) == 1 and socket_path(empty).exists())
    kill(empty)
    monkeypatch.setattr(whatif, "IDLE_SECONDS", 0.5)
    whatif.preload(empty, [])
    # The killed process left its socket, which the next one replaces and removes.
    wait_for(lambda: not socket_path(empty).exists() and not processes_of(empty))


def test_a_killed_process_is_replaced_and_a_broken_one_is_reported(world, monkeypatch):
    ws, run = world["ws"], world["runs"][0].id
    whatif.predict(ws, run, "003", "Dune")
    kill(ws)
    assert socket_path(ws).exists()
    assert whatif.predict(ws, run, "003", "Dune").value > 0
    kill(ws)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(JobError, match="did not start; read .*whatif.log"):
        whatif.predict(ws, run, "003", "Dune")


def test_a_workspace_with_a_long_path_works(tmp_path):
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    ws = Workspace.open(folder, create=True)
    whatif.preload(ws, [])
    wait_for(socket_path(ws).exists)
    kill(ws)


def test_prompts_read_in_blocks_equal_the_whole_table(world, monkeypatch):
    ws, run = world["ws"], world["runs"][0]
    table = pipeline.load_prompts(ws, run)
    monkeypatch.setattr("puma_engine.pipeline.stored_prompts.BLOCK", 3)
    rows = pipeline.PromptTableReader(ws, run)
    blocks = list(rows.blocks())
    assert [start for start, _ in blocks] == [0, 3, 6]
    joined = np.concatenate([block for _, block in blocks]).reshape(table.vectors.shape)
    assert np.array_equal(joined, table.vectors)
    for row, user in enumerate(table.user_ids.tolist()):
        assert rows.row_of(user) == row
        assert np.array_equal(rows.vector(user), table.vectors[row])
    assert rows.row_of("nobody") is None
    head = rows.head()
    assert set(head) == set(table.head)
    assert all(np.array_equal(head[name], table.head[name]) for name in head)


def test_rows_of_some_users_are_read_without_the_rest(world):
    ws, data = world["ws"], world["data"]
    interactions = ws.get_table(data.id, "interactions")
    some = ws.get_table(data.id, "interactions", where={"user_id": ["002", "005", "none"]})
    expected = interactions[interactions["user_id"].isin(["002", "005"])]
    assert some.to_dict("records") == expected.to_dict("records") and len(some)
