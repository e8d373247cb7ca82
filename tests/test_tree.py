"""The structure of the tree: packages, import order, forbidden calls."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGINE = sorted((ROOT / "puma_engine").rglob("*.py"))
DASHBOARD = sorted((ROOT / "dashboard").rglob("*.py"))
RESEARCH = sorted((ROOT / "research").rglob("*.py"))
HEAVY = {"torch", "transformers", "accelerate", "umap"}
PAGES = sorted(path.stem for path in (ROOT / "dashboard/views").glob("[a-z]*.py"))
UNSAFE = {"pickle", "dill", "cloudpickle", "joblib"}
FORBIDDEN_KEYWORDS = {("trust_remote_code", True), ("unsafe_allow_html", True)}
# A package may import those before it, and itself.
PACKAGES = (
    *("errors", "version", "files", "config", "defaults", "requests"),
    *("datasets", "zoo", "training", "backbone", "prompts", "migration", "selection", "evaluation"),
    *("maps", "store", "exchange", "report", "pipeline", "jobs", "serving", "studies"),
    *("workbench", "cli"),
)
WITHOUT_TORCH = ("datasets", "selection", "store", "report")


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    return str(path.relative_to(ROOT))


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in [*ENGINE, *RESEARCH, *DASHBOARD]}


def package_of(module):
    return module.split(".")[1] if module.count(".") else ""


def imported(tree, *, top_only=False):
    """Return the names that a file imports, anywhere (lazy and type-only too) or when it is loaded."""
    names = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                names.add(member if member in MODULES else node.module)
    return names


def roots(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_packages_import_only_earlier_ones(path):
    names = imported(tree_of(path))
    assert not roots(names) & {"streamlit", "dashboard", "research"}
    package = package_of(module_of(path))
    if not package:
        return
    allowed = {"", *PACKAGES[: PACKAGES.index(package) + 1]}
    disallowed = {name for name in names if name in MODULES and package_of(name) not in allowed}
    assert not disallowed
    assert "puma_engine" not in names, "name the module, not the package's face"


def cycles(graph):
    """Return every group of modules that import each other (Tarjan's strongly connected parts)."""
    order, low, stack, groups = {}, {}, [], []

    def visit(module):
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in graph:
        if module not in order:
            visit(module)
    return groups


def test_modules_have_no_import_cycles():
    graph = {
        module: (imported(tree_of(path)) & set(MODULES)) - {module}
        for module, path in MODULES.items()
    }
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert cycles(graph) == []


@pytest.mark.parametrize("path", DASHBOARD, ids=name_of)
def test_only_one_package_of_the_dashboard_imports_the_engine(path):
    names = roots(imported(tree_of(path)))
    if path.parent != ROOT / "dashboard" / "engine":
        assert "puma_engine" not in names
    assert not roots(imported(tree_of(path), top_only=True)) & HEAVY


@pytest.mark.parametrize(
    "path",
    [path for path in ENGINE if package_of(module_of(path)) in WITHOUT_TORCH],
    ids=name_of,
)
def test_light_packages_do_not_import_torch(path):
    assert not roots(imported(tree_of(path))) & HEAVY


@pytest.mark.parametrize("path", [*ENGINE, *DASHBOARD, *RESEARCH], ids=name_of)
def test_no_dangerous_calls_are_used(path):
    tree = tree_of(path)
    assert not roots(imported(tree)) & UNSAFE
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            inputs = {(k.arg, getattr(k.value, "value", None)) for k in node.keywords}
            assert not inputs & FORBIDDEN_KEYWORDS, node.lineno
            if ast.unparse(node.func) == "torch.load":
                assert ("weights_only", True) in inputs, node.lineno


@pytest.mark.parametrize(
    ("code", "slow"),
    [
        ("from puma_engine.cli import main\nmain(['--help'])", {"ray", "sklearn", "streamlit"}),
        (
            "from puma_engine.cli import main\nmain(['runs', 'list', '-w', sys.argv[1]])",
            {"sklearn", "streamlit"},
        ),
        (
            "import puma_engine, puma_engine.pipeline, puma_engine.jobs, dashboard.engine\n"
            # Actors of a cluster that read shards load it, too.
            "import puma_engine.jobs.cluster, puma_engine.serving.cluster_bulk\n"
            "import puma_engine.serving.whatif_server\n"
            f"import {', '.join(f'dashboard.views.{page}' for page in PAGES)}",
            {"ray", "sklearn"},
        ),
    ],
    ids=["help", "runs", "pages"],
)
def test_no_heavy_module_is_loaded_at_start(code, slow, tmp_path):
    from puma_engine import Workspace

    Workspace.open(tmp_path / "ws", create=True)
    lines = ["import sys", "try:", *(f"    {line}" for line in code.split("\n"))]
    lines += ["except SystemExit: pass", f"print(sorted({HEAVY | slow} & set(sys.modules)))"]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), str(tmp_path / "ws")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout.splitlines()[-1] == "[]"
