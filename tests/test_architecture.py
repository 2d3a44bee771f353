"""The rules of the house that a test can see."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "latentcomp").rglob("*.py"))
OURS = [*LIBRARY, *sorted((ROOT / "experiments").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

# Import layers: a module may import from its own layer and from those above it in this list.
LAYERS = [
    {
        "noise",
        "batch",
        "objectives",
        "statistics",
        "_version",
        "checkpoint",
        "checkpoints",
        "alarm",
        "processes",
        "random_states",
        "signals",
        "described",
        "chunks",
        "locks",
    },
    {"nn"},
    {"codes"},
    {"codebook", "priors", "likelihoods", "energies"},
    {"model"},
    {"enumeration"},
    {"posteriors"},
    {"conditions"},
    {"moves"},
    {"phases"},
    {"learners", "torchgfn"},
    {"pretrained", "hub"},
    {"train", "engine", "data", "sampling", "taming"},
    {"evaluate", "pyro"},
]
NEVER_AT_IMPORT = ["pyro", "gfn", "lpips", "torchvision", "lightning", "lightning_fabric", "torchmetrics", "sklearn", "matplotlib", "hydra"]
NEVER_AT_IMPORT += ["huggingface_hub", "omegaconf", "statsmodels", "scipy", "pandas", "tabulate", "yaml", "safetensors", "PIL", "torch_fidelity"]


def imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(name: str) -> int:
    """The number of the layer that a part of the package lies in."""
    return next(number for number, parts in enumerate(LAYERS) if name in parts)


@pytest.mark.parametrize("path", [p for p in LIBRARY if p.parent != ROOT / "latentcomp" or p.stem != "__init__"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_inward(path):
    part = path.relative_to(ROOT / "latentcomp").parts[0].removesuffix(".py")
    for module in imports(path):
        if module.startswith("latentcomp."):
            imported = module.split(".")[1]
            assert layer(imported) <= layer(part), f"{path} imports {module}, which lies in a higher layer"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_knows_no_configuration_or_logging(path):
    assert not {m.split(".")[0] for m in imports(path)} & {"hydra", "omegaconf", "wandb", "tensorboard", "experiments", "rich"}


def test_objectives_know_only_torch():
    modules = {m.split(".")[0] for m in imports(ROOT / "latentcomp" / "objectives.py")}
    assert modules <= {"torch", "math", "jaxtyping"}


def test_module_imports_have_no_cycle():
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): imports(p) for p in LIBRARY}
    edges = {name: {m for m in names if m != name and any(i == m or i.startswith(f"{m}.") for i in used)} for name, used in names.items()}
    edges = {name: {m for m in used if not m.endswith("__init__")} for name, used in edges.items()}
    while edges:
        free = {name for name, used in edges.items() if not used & edges.keys()}
        assert free, f"a cycle among {sorted(edges)}"
        edges = {name: used for name, used in edges.items() if name not in free}


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_class_and_public_function_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in [*tree.body, *(child for n in tree.body if isinstance(n, ast.ClassDef) for child in n.body)]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_constructors_take_at_most_six_arguments(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
            assert len(arguments) <= 6, f"{path}:{node.lineno} takes {arguments}"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_bare_assert_and_no_device_literal(path):
    tree = ast.parse(path.read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)], "users get errors that name the remedy, not asserts"
    literals = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert not literals & {"cuda", "cuda:0", "mps"}


def test_import_is_light():
    code = f"import sys, latentcomp; print(*[m for m in {NEVER_AT_IMPORT!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_every_learner_stands_in_the_readme_and_the_docs():
    readme, docs = (ROOT / "README.md").read_text(), (ROOT / "docs" / "learners" / "index.md").read_text()
    for path in (ROOT / "latentcomp" / "learners").glob("*.py"):
        if path.stem not in ("__init__", "learner", "alternating"):
            assert f"learners/{path.name}" in readme, f"{path.name} has no line in README's table"
            assert f"{path.name}" in docs
