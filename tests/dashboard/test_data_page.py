"""The Data page in every state, and uploads from the browser to a job."""

import gzip
import io
import json
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dashboard_pages import HOSTILE, add_job, assert_plain, open_page, texts
from rating_tables import frame

from dashboard import engine
from dashboard.components import dataset_import
from dashboard.engine import datasets, uploads
from puma_engine import jobs
from puma_engine.datasets import check_table
from puma_engine.errors import DataError
from puma_engine.jobs import tidying
from puma_engine.jobs.runner import execute
from puma_engine.pipeline import COMMANDS
from puma_engine.store import Workspace

NAMES = {"user_id": "reviewer", "item_id": "asin", "text": "title", "outcome": "stars"}
MAPPED = datasets.TableSettings(columns={**NAMES, "time": "time"})


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PUMA_WORKSPACE", str(tmp_path / "ws"))
    monkeypatch.setattr(jobs, "ensure_worker", lambda ws: None)
    return tmp_path / "ws"


@pytest.fixture
def ws(root):
    return Workspace.open(root, create=True)


def keep(ws, made, tmp_path, name="mine"):
    path = tmp_path / f"{name}.csv"
    made.to_csv(path, index=False)
    return COMMANDS["import_dataset"](ws, "table", path=path, task="rating", name=name)


def upload(name="ratings.csv", made=None, packed=False):
    content = (frame() if made is None else made).rename(columns=NAMES).to_csv(index=False).encode()
    content = gzip.compress(content) if packed else content
    return uploads.Upload(name, io.BytesIO(content), len(content), datasets.TABLE)


def test_without_data_sets_the_page_says_what_to_add(root, monkeypatch):
    app = open_page("data", root, monkeypatch)
    assert_plain(app)
    assert "No data sets yet" in texts(app)


def test_a_data_set_shows_its_counts_charts_and_rows(ws, tmp_path, monkeypatch):
    made = frame()
    run = keep(ws, made, tmp_path)
    app = open_page("data", ws.root, monkeypatch, user="003")
    assert_plain(app)
    table = app.dataframe[0].value.iloc[0]
    assert (table["Users"], table["Records"]) == (made["user_id"].nunique(), len(made))
    assert app.query_params["dataset"] == run.id
    assert len(app.get("plotly_chart")) == 3
    rows = app.dataframe[-1].value
    assert sorted(rows["item_id"]) == sorted(made.loc[made["user_id"] == "003", "item_id"])


def test_the_papers_data_sets_are_shown_beside_ours_on_demand(ws, tmp_path, monkeypatch):
    keep(ws, frame(), tmp_path)
    app = open_page("data", ws.root, monkeypatch, paper="true")
    assert_plain(app)
    assert app.dataframe[0].value["Records"].tolist()[1:] == [1_166_752, 3_892_068, 1_543_687]


def test_search_covers_ids_and_titles_and_counts_all_matches():
    items = pd.DataFrame(
        {"item_id": ["a1", "b", "c"], "text": ["x", "A1 title", "(z"], "records": [1, 5, 2]}
    )
    matching, count = datasets.find(items, "a1", limit=1)
    assert matching["item_id"].tolist() == ["b"] and count == 2
    assert datasets.find(items, "(")[1] == 1 and datasets.find(items, "")[1] == 3


@pytest.mark.parametrize("address", [{"user": "nobody"}, {"dataset": "../x"}, {"browse": "x"}])
def test_an_address_of_unknown_things_still_shows_the_page(address, ws, tmp_path, monkeypatch):
    keep(ws, frame(), tmp_path)
    app = open_page("data", ws.root, monkeypatch, **address)
    assert_plain(app)
    assert app.dataframe[0].value["Data set"].tolist() == ["mine"]


@pytest.mark.parametrize("title", HOSTILE)
def test_titles_ids_and_names_are_shown_as_text(title, ws, tmp_path, monkeypatch):
    made = frame()
    made["text"] = title
    made["user_id"] = title[:100] + made["user_id"]
    name = title.strip()
    run = keep(ws, made, tmp_path)
    ws.rename(run.id, name)
    user = made["user_id"].iloc[0]
    app = open_page("data", ws.root, monkeypatch, user=user)
    assert_plain(app)
    assert set(app.dataframe[-1].value["text"]) == {title.strip()}


def test_a_shipped_set_is_imported_by_a_job(root, monkeypatch):
    app = open_page("data", root, monkeypatch, view="import", **{"from": "shipped"})
    assert_plain(app)
    app.selectbox("shipped-name").select("movietweetings")
    app.number_input("shipped-users").set_value(50)
    app.button[0].click().run()
    assert_plain(app)
    (job,) = jobs.jobs(Workspace.open(root))
    assert job.args == {"source": "movietweetings", "users": 50}
    for name, users in (("../etc", 5), ("amazon", 5), ("goodbooks", 0)):
        with pytest.raises(DataError):
            datasets.import_shipped(name, users)


def run_page(app, file):
    app.file_uploader("upload").set_value(file).run()
    assert_plain(app)
    return app


def test_a_file_is_previewed_mapped_and_checked_before_it_is_stored(root, tmp_path, monkeypatch):
    app = open_page("data", root, monkeypatch, view="import")
    content = frame().rename(columns=NAMES | {"text": "what"}).to_csv(index=False).encode()
    app = run_page(app, ("my ratings.csv", content, "text/csv"))
    assert app.selectbox("column-user_id").value == "reviewer"
    # Nothing says that it holds titles but what it holds.
    assert app.selectbox("column-text").value == "what"
    app.selectbox("column-text").select("(none)").run()
    assert "Choose a column for: Title" in texts(app)
    app.selectbox("column-text").select("what").run()
    assert_plain(app)
    assert f"All {len(frame())} rows can be used" in texts(app)
    assert not root.exists()
    app.number_input("min-rows").set_value(2).run()
    assert "rows can be used" in texts(app)
    app.text_input("import-name").set_value("Mine").run()
    app.button("import").click().run()
    assert_plain(app)
    ws = Workspace.open(root)
    (job,) = jobs.jobs(ws)
    assert job.args["columns"]["text"] == "what" and job.args["name"] == "Mine"
    assert str(root / tidying.UPLOADS) in job.args["path"] and job.args["path"].endswith(".csv")
    assert execute_job(ws, job) == "finished"
    (made,) = ws.runs("dataset")
    assert made.name == "Mine" and made.summary["interactions"] == len(frame())
    tidying.remove_uploads(ws)
    assert list((root / tidying.UPLOADS).iterdir())
    tidying.remove_uploads(ws, older_than=0)
    assert not list((root / tidying.UPLOADS).iterdir())


def test_a_large_file_is_checked_on_demand(root, monkeypatch):
    monkeypatch.setattr(dataset_import, "AUTO_CHECK", 10)
    app = open_page("data", root, monkeypatch, view="import")
    content = frame().rename(columns=NAMES).to_csv(index=False).encode()
    app = run_page(app, ("a.csv", content, "text/csv"))
    assert "rows can be used" not in texts(app)
    app.button("check").click().run()
    assert f"All {len(frame())} rows can be used" in texts(app)
    app.number_input("min-rows").set_value(2).run()
    assert "check the file again" in texts(app)


def execute_job(ws, job):
    with ws.transaction() as db:
        db.execute("UPDATE jobs SET status = 'running', attempt = 1 WHERE id = ?", [job.id])
    execute(ws, job.id, 1)
    return jobs.job(ws, job.id).status


def test_a_file_with_bad_rows_is_imported_only_without_them(root, monkeypatch):
    app = open_page("data", root, monkeypatch, view="import")
    made = frame().rename(columns=NAMES)
    made.loc[3, "stars"] = 9
    app = run_page(app, ("a.csv", made.to_csv(index=False).encode(), "text/csv"))
    assert f"1 of {len(made)} rows cannot be used" in texts(app)
    assert "import" not in {button.key for button in app.button}
    app.checkbox("drop-invalid").check().run()
    assert "1 of 120 rows will be dropped" in texts(app)
    assert "import" in {button.key for button in app.button}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"one\n", "Choose a column"),
        ("a.csv", "\xe9\n1\n".encode("latin-1"), "not UTF-8"),
        ("a.parquet", b"PAR1 but not really", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_reason(
    name, content, words, root, monkeypatch
):
    app = open_page("data", root, monkeypatch, view="import")
    app = run_page(app, (name, content, "application/octet-stream"))
    assert words in texts(app) and not root.exists()


def test_hostile_columns_are_shown_as_text(root, monkeypatch):
    made = frame().rename(columns={"text": "<script>x</script>", "time": "**bold**"})
    app = open_page("data", root, monkeypatch, view="import")
    app = run_page(app, ("a.csv", made.to_csv(index=False).encode(), "text/csv"))
    assert "<script>x</script>" in app.selectbox("column-text").options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("../../etc/passwd.csv", "passwd.csv"),
        ("C:\\temp\\a b.CSV.GZ", "a-b.csv.gz"),
        ("\u202e\u05e9.tsv", "table.tsv"),
        (".csv", "table.csv"),
        ("--option.csv", "option.csv"),
        ("x" * 500 + ".parquet", "x" * 80 + ".parquet"),
    ],
)
def test_file_names_are_sanitised(given, expected):
    assert uploads.checked_name(given, datasets.TABLE) == expected


@pytest.mark.parametrize("name", ["a.exe", "csv", "a.csv.exe", ""])
def test_files_without_a_table_suffix_are_refused(name):
    with pytest.raises(DataError):
        uploads.checked_name(name, datasets.TABLE)


def test_large_files_and_zip_bombs_are_refused_on_the_server(monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="at most 10 can be uploaded"):
        upload()
    monkeypatch.undo()
    monkeypatch.setattr(uploads, "MAX_UNPACKED", 100)
    with pytest.raises(DataError, match="unpacks to"):
        upload("a.csv.gz", packed=True)
    content = frame().to_parquet()
    with pytest.raises(DataError, match="unpacks to"):
        uploads.Upload("a.parquet", io.BytesIO(content), len(content), datasets.TABLE)


def test_a_check_in_its_own_process_equals_that_of_the_engine():
    check = datasets.check(upload(), None, MAPPED)
    assert check["rows"] == len(frame()) and check["problems"] == []
    with pytest.raises(DataError, match=r"^ratings\.csv lacks the column") as error:
        datasets.check(upload(), None, replace(MAPPED, columns={"user_id": "--json"}))
    assert "/tmp" not in str(error.value)


def test_damaged_uploads_are_refused_with_the_reason():
    packed = bytearray(gzip.compress(frame().to_csv(index=False).encode()))
    packed[len(packed) // 2] ^= 0xFF
    for content in (packed, packed[: len(packed) // 2], b"\x1f\x8bnothing"):
        for name in ("a.csv.gz", "a.csv"):
            with pytest.raises(DataError, match="cannot be read"):
                uploads.Upload(name, io.BytesIO(content), len(content), datasets.TABLE)


def test_packed_files_are_measured_unpacked_whatever_their_name(monkeypatch):
    content = gzip.compress(b"user_id,item_id\n" * 100)
    monkeypatch.setattr(uploads, "MAX_UNPACKED", 500)
    for name in ("a.csv", "a.tsv", "a.csv.GZ"):
        with pytest.raises(DataError, match="unpacks to"):
            uploads.Upload(name, io.BytesIO(content), len(content), datasets.TABLE)
    table = pa.table({"text": pa.array(["x"] * 1_000).dictionary_encode()})
    pq.write_table(table, made := io.BytesIO())
    with pytest.raises(DataError, match="unpacks to"):
        uploads.Upload(
            "a.parquet", io.BytesIO(made.getvalue()), len(made.getvalue()), datasets.TABLE
        )


def test_every_option_of_the_page_reaches_the_check():
    rows = frame().assign(outcome=lambda made: 1 + made.index % 10, fold="train")
    rows.loc[rows.index[::9], "outcome"] = -1
    rows["time"] += 1_400_000_000
    content = rows.to_csv(index=False, header=False, sep="|").encode("cp1252")
    file = uploads.Upload("a.csv", io.BytesIO(content), len(content), datasets.TABLE)
    columns = dict(zip(("user_id", "item_id", "outcome", "time"), "1245", strict=True))
    options = {
        **{"columns": columns, "id_as_text": True, "no_header": True, "delimiter": "|"},
        **{"encoding": "cp1252", "quote": "none", "scale": "1:10", "not_rated": -1.0},
        **{"min_item_rows": 2, "users": 5, "split_by": "time", "time_unit": "s"},
    }
    checked = datasets.check(file, None, datasets.TableSettings(**options))
    assert checked == json.loads(
        json.dumps(check_table(file.path, task="rating", **options).to_dict())
    )
    assert checked["refusal"] is None and checked["statistics"]["users"] == 5


def test_titles_may_come_in_a_second_file(ws):
    items = frame()[["item_id", "text"]].drop_duplicates("item_id")
    second = upload("titles.csv", items)
    columns = {key: name for key, name in NAMES.items() if key != "text"}
    of_second = {"item_id": "asin", "text": "title"}
    settings = replace(MAPPED, columns=columns, item_columns=of_second)
    assert datasets.check(upload(), second, settings)["problems"] == []
    job = datasets.import_table(upload(), second, settings, None)
    assert execute_job(ws, job) == "finished"


def test_an_upload_is_deleted_once_no_job_can_read_it(ws):
    job = datasets.import_table(upload(), None, MAPPED, None)
    tidying.remove_uploads(ws, older_than=0)
    assert datasets.Path(job.args["path"]).is_file()
    with pytest.raises(engine.PumaError):
        datasets.import_table(upload(), None, replace(MAPPED, columns={"user_id": object()}), None)
    assert len(list((ws.root / tidying.UPLOADS).iterdir())) == 1


def test_imports_that_failed_are_shown_with_their_reason(ws, monkeypatch):
    add_job(ws, "import_dataset", title="Import x", status="failed", error="Its reason.")
    add_job(ws, "migrate", title="Another")
    app = open_page("data", ws.root, monkeypatch, view="import")
    assert_plain(app)
    assert "Its reason." in texts(app) and "Another" not in texts(app)
