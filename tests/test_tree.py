"""The shape of the tree: layers, sizes, and what no file may hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGINE = sorted((ROOT / "puma_engine").rglob("*.py"))
DASHBOARD = sorted((ROOT / "dashboard").rglob("*.py"))
HEAVY = {"torch", "transformers", "accelerate", "umap"}
MOST_LINES, LONGEST_FUNCTION = 400, 50
# Functions whose signature and documentation alone take half of the page.
LONGER = {"read_table", "import_dataset"}
FORBIDDEN_KEYWORDS = {("trust_remote_code", True), ("unsafe_allow_html", True)}


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    return str(path.relative_to(ROOT))


def imported(tree, *, top_only=False):
    """Names of the modules that a file imports, anywhere or when it is loaded."""
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_the_engine_knows_neither_streamlit_nor_the_dashboard(path):
    assert not roots(imported(tree_of(path))) & {"streamlit", "dashboard"}


@pytest.mark.parametrize("path", DASHBOARD, ids=name_of)
def test_one_package_of_the_dashboard_alone_imports_the_engine(path):
    names = roots(imported(tree_of(path)))
    if path.parent != ROOT / "dashboard" / "engine":
        assert "puma_engine" not in names
    assert not roots(imported(tree_of(path), top_only=True)) & HEAVY


def layer(*parts):
    return [path for path in ENGINE if path.relative_to(ROOT / "puma_engine").parts[0] in parts]


@pytest.mark.parametrize("path", layer("datasets", "metrics.py", "selection"), ids=name_of)
def test_data_metrics_and_selection_need_no_torch(path):
    assert not roots(imported(tree_of(path))) & HEAVY


STAGES = layer(
    *("datasets", "metrics.py", "selection", "backbone", "tasks.py", "training.py", "prompts.py"),
    *("examples.py", "adapter.py", "migration.py", "evaluation.py", "baselines.py", "zoo"),
)
ABOVE = ("puma_engine.store", "puma_engine.pipeline", "puma_engine.jobs", "puma_engine.cli")


@pytest.mark.parametrize("path", STAGES, ids=name_of)
def test_no_stage_knows_what_stands_above_it(path):
    assert not {name for name in imported(tree_of(path)) if name.startswith(ABOVE)}


@pytest.mark.parametrize("path", layer("store"), ids=name_of)
def test_the_store_knows_no_pipeline(path):
    assert not {name for name in imported(tree_of(path)) if name.startswith(ABOVE[1:])}


@pytest.mark.parametrize("path", [*ENGINE, *DASHBOARD], ids=name_of)
def test_sizes_and_dangerous_calls(path):
    tree = tree_of(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES
    assert not roots(imported(tree)) & {"pickle", "dill", "cloudpickle", "joblib"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST_FUNCTION + 12 * (node.name in LONGER), node.name
        if isinstance(node, ast.Call):
            given = {(k.arg, getattr(k.value, "value", None)) for k in node.keywords}
            assert not given & FORBIDDEN_KEYWORDS, node.lineno
            if ast.unparse(node.func) == "torch.load":
                assert ("weights_only", True) in given, node.lineno


@pytest.mark.parametrize(
    "code",
    [
        "from puma_engine.cli import main\nmain(['--help'])",
        "from puma_engine.cli import main\nmain(['runs', 'list', '-w', sys.argv[1]])",
        "import puma_engine, puma_engine.pipeline, puma_engine.jobs, dashboard.engine",
    ],
    ids=["help", "runs", "dashboard"],
)
def test_nothing_heavy_is_loaded_at_start(code, tmp_path):
    from puma_engine import Workspace

    Workspace.open(tmp_path / "ws", create=True)
    lines = ["import sys", "try:", *(f"    {line}" for line in code.split("\n"))]
    lines += ["except SystemExit: pass", f"print(sorted({HEAVY} & set(sys.modules)))"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(tmp_path / "ws")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1] == "[]"
