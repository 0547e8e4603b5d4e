# SPDX-License-Identifier: Apache-2.0
"""The rules of the house (CONTRIBUTING.md), as assertions over the sources."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC, PACKAGE, TESTS = ROOT / "csrc", ROOT / "python" / "seqloom", ROOT / "tests"
LONGEST_FILE = 600

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")


def sources(*suffixes: str) -> list[Path]:
    """The project's own files, of these suffixes."""
    rooms = [ROOT / r for r in ("csrc", "python", "tests", "benchmarks", "examples", "cmake")]
    return sorted(
        p
        for room in rooms
        if room.is_dir()
        for p in room.rglob("*")
        if p.suffix in suffixes and p.is_file() and "__pycache__" not in p.parts
    )


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def strip_comments(code: str) -> str:
    """C++ without comments and string literals."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
    return re.sub(pattern, lambda m: '""' if m[0][0] == '"' else " ", code, flags=re.S)


CPP = (".h", ".cpp", ".cu", ".cuh")


@cache
def includes(path: Path) -> tuple[str, ...]:
    """The project's headers that a file includes, relative to csrc/."""
    return tuple(re.findall(r'^\s*#\s*include\s+"([^"]+)"', text_of(path), flags=re.M))


@cache
def reached(path: Path) -> frozenset[Path]:
    """Every header of ours that a file sees, directly or through others."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        for name in includes(todo.pop()):
            header = CSRC / name
            if header.is_file() and header not in seen:
                seen.add(header)
                todo.append(header)
    return frozenset(seen)


# --- rooms and the way includes run -----------------------------------------------------

# room: rooms whose headers it may include, beside its own
MAY_INCLUDE = {
    "core": set(),
    "cpu": {"core"},
    "cuda": {"core", "emulation"},
    "emulation": {"core", "cuda"},
    "binding": {"core", "cpu", "cuda", "emulation"},
    "ops": {"core", "cpu", "cuda", "binding"},
}


def test_includes_run_one_way():
    wrong = []
    for path in (p for p in sources(*CPP) if CSRC in p.parents):
        room = path.relative_to(CSRC).parts[0]
        for name in includes(path):
            target = name.split("/")[0]
            if not (CSRC / name).is_file():
                wrong.append(f"{relative(path)}: {name} is not relative to csrc/")
            elif room in MAY_INCLUDE and target != room and target not in MAY_INCLUDE[room]:
                wrong.append(f"{relative(path)} includes {name}")
    assert not wrong, "\n".join(wrong)


def test_every_room_is_known():
    rooms = {p.name for p in CSRC.iterdir() if p.is_dir()}
    assert rooms <= set(MAY_INCLUDE), rooms - set(MAY_INCLUDE)


def test_kernels_see_neither_the_other_backend_nor_python():
    wrong = []
    for path in (p for p in sources(".cpp", ".cu") if CSRC / "ops" in p.parents):
        if path.suffix == ".cu":
            foreign = ("cpu", "binding")  # but for cpu/isa.h, in which contracts declare
        elif path.stem.endswith("_cpu"):
            foreign = ("cuda", "binding")
        else:
            continue
        for header in {path, *reached(path)}:
            inner = header.relative_to(CSRC)
            if inner.as_posix() == "cpu/isa.h":
                continue
            if inner.parts[0] in foreign or "<pybind11" in text_of(header):
                wrong.append(f"{relative(path)} sees {inner}")
    assert not wrong, "\n".join(wrong)


def test_pybind11_stays_at_the_front_doors():
    wrong = []
    for path in (p for p in sources(*CPP) if "<pybind11" in text_of(p)):
        parts = path.relative_to(CSRC).parts
        kernel = path.suffix == ".cu" or path.stem.endswith(("_cpu", "_cuda"))
        front_door = parts[0] == "ops" and not kernel
        if not (front_door or parts[0] == "binding" or parts == ("module.cpp",)):
            wrong.append(relative(path))
    assert not wrong, wrong


def test_the_module_is_a_list_of_registrations():
    module = strip_comments(text_of(CSRC / "module.cpp"))
    assert "m.def(" not in module
    assert len(re.findall(r"register_\w+\(m\)", module)) >= 3


def test_inline_ptx_lives_in_its_wrappers():
    allowed = set((CSRC / "cuda").glob("ptx*.h"))
    wrong = [
        relative(p)
        for p in sources(*CPP)
        if p not in allowed
        and {"cuda", "ops"} & set(p.relative_to(ROOT).parts[:2])
        and re.search(r"\b(asm|__asm__)\b", strip_comments(text_of(p)))
    ]
    assert not wrong, wrong


def test_launches_go_through_the_checked_macro():
    wrong = [
        relative(p)
        for p in sources(*CPP)
        if CSRC / "ops" in p.parents and "<<<" in strip_comments(text_of(p))
    ]
    assert not wrong, wrong


def test_kernels_name_their_largest_block():
    wrong = [
        f"{relative(p)}: {found[1]}"
        for p in sources(*CPP)
        if CSRC in p.parents
        for found in re.finditer(r"__global__\s+void\s+(\w+)", strip_comments(text_of(p)))
        if found[1] != "__launch_bounds__"
    ]
    assert not wrong, wrong


def test_the_resource_table_names_every_kernel(tmp_path):
    script = ROOT / "scripts" / "cuda_resources.py"
    table = ROOT / "csrc" / "cuda" / "resources.csv"

    def judged(table: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), "--names", "--table", str(table)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert judged(table).returncode == 0, judged(table).stdout
    lines = text_of(table).splitlines(keepends=True)
    without = tmp_path / "resources.csv"
    left = [x for x in lines if not re.search(r"softmax_cuda\.cu,80,\W?backward_rows<", x)]
    assert len(left) < len(lines)
    without.write_text("".join(left), encoding="utf-8")
    assert "(sm_80): no row for backward_rows" in judged(without).stdout


# --- families ---------------------------------------------------------------------------


def families() -> list[str]:
    ops = CSRC / "ops"
    return sorted(p.name for p in ops.iterdir() if p.is_dir()) if ops.is_dir() else []


@pytest.mark.parametrize("family", families())
def test_a_family_has_its_four_files_its_python_and_its_tests(family):
    folder = CSRC / "ops" / family
    # A strategy may have a suffix of its own: rnn_forward_bf16_cpu.cpp, attention_cuda_sm90.cu.
    files = [f"{family}.h", f"{family}.cpp", f"{family}*_cpu.cpp", f"{family}*_cuda*.cu"]
    missing = [pattern for pattern in files if not list(folder.glob(pattern))]
    others = [PACKAGE / "ops" / f"{family}.py", TESTS / "ops" / f"test_{family}.py"]
    missing += [relative(p) for p in others if not p.is_file()]
    assert not missing, missing


# --- one ISA, one namespace -------------------------------------------------------------

SHARED_TEMPLATES = re.compile(
    r"#\s*include\s*<(vector|string|map|unordered_map|set|functional|iostream|sstream|memory|"
    r"algorithm|optional|mutex|thread|variant)>"
)


def isa_sources() -> list[Path]:
    return [p for p in sources(".cpp") if CSRC in p.parents and p.stem.endswith("_cpu")]


def test_isa_files_keep_to_their_namespace_and_share_no_templates():
    wrong = []
    for path in isa_sources():
        if "SEQLOOM_ISA_NS" not in text_of(path):
            wrong.append(f"{relative(path)}: not in namespace SEQLOOM_ISA_NS")
        found = SHARED_TEMPLATES.search(text_of(path))
        if found:
            wrong.append(f"{relative(path)}: {found[0]}")
    assert not wrong, "\n".join(wrong)


def object_files() -> list[tuple[str, Path]]:
    """(namespace, object) of every ISA object in the build folder."""
    given = os.environ.get("SEQLOOM_BUILD_DIR")
    root = Path(given) if given else ROOT / "build"
    found = []
    for folder in root.rglob("seqloom_isa_*.dir") if root.is_dir() else ():
        namespace = folder.name.removeprefix("seqloom_").removesuffix(".dir")
        found += [(namespace, p) for p in folder.rglob("*.o")]
    return sorted(found)


def test_no_symbol_is_shared_between_instruction_sets():
    """The linker keeps one of two equal symbols: the wrong one is an illegal instruction."""
    objects = object_files()
    if not objects:
        pytest.skip("no ISA objects: set SEQLOOM_BUILD_DIR to a build folder")
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    wrong, seen = [], 0
    for namespace, path in objects:
        listing = subprocess.run(
            ["nm", "--defined-only", "--extern-only", "--format=posix", str(path)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for line in listing.splitlines():
            name, kind = line.split()[:2]
            seen += 1
            # Its mangled name spells the namespace with its length before it.
            # DW.ref.* are pointers to the runtime's exception handling: equal data, no code.
            own = f"{len(namespace)}{namespace}" in name
            if not own and not name.startswith("DW.ref."):
                wrong.append(f"{path.name} ({namespace}): {kind} {name}")
    assert seen > len(objects), "the objects define next to nothing"
    assert not wrong, "\n".join(wrong[:40])


# --- a library, not a program -----------------------------------------------------------


def test_the_library_never_prints_or_ends_the_process():
    pattern = re.compile(
        r"(?<![\w.>:])(?<!void )(std::|::)?"
        r"(abort|exit|_exit|terminate|printf|fprintf|puts|perror)\s*\(|std::c(out|err)"
    )
    wrong = [
        f"{relative(p)}: {found[0]}"
        for p in sources(*CPP)
        if CSRC in p.parents and CSRC / "emulation" not in p.parents
        for found in pattern.finditer(strip_comments(text_of(p)))
    ]
    assert not wrong, "\n".join(wrong)


# --- Python -----------------------------------------------------------------------------

# Who may talk to the extension module: the arrays, the tape, the ops, and the switches.
MAY_IMPORT_CORE = {
    "tensor.py",
    "autograd.py",
    "__init__.py",
    "cuda.py",
    "config.py",
    "autograd",
    "creation.py",
}

# A room imports only what stands before it.
LAYERS = [
    {
        "_core",
        "_version",
        "autograd",
        "config",
        "creation",
        "cuda",
        "dtypes",
        "files",
        "methods",
        "tensor",
    },
    {"ops", "weights"},
    {"nn", "optim"},
    {"generation", "models"},
    {"text", "data"},
    {"train", "plot", "bench", "assets", "demo"},
    {"cli", "__main__", "__init__"},
]


def package_files() -> list[Path]:
    return [p for p in sources(".py") if PACKAGE in p.parents]


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports when it loads, as "ops" or "nn.functional"."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    package = here[:-1]
    found = set()
    deferred = {
        inner
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
        if isinstance(inner, ast.ImportFrom | ast.Import)
    }
    deferred_lines = {node.lineno for node in deferred}
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.ImportFrom) and node.lineno not in deferred_lines:
            if node.level:
                base = package[: len(package) - node.level + 1]
                module = (*base, *(node.module.split(".") if node.module else ()))
            elif node.module and node.module.split(".")[0] == "seqloom":
                module = tuple(node.module.split(".")[1:])
            else:
                continue
            if module:
                found.add(".".join(module))
            else:
                found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.name.removeprefix("seqloom.") for a in node.names if a.name.startswith("seqloom.")
            }
    return found


def test_only_arrays_and_ops_import_the_core():
    wrong = [
        relative(p)
        for p in package_files()
        if re.search(r"\b(from|import)\s[^\n]*\b_core\b", text_of(p))
        and p.relative_to(PACKAGE).parts[0] not in MAY_IMPORT_CORE | {"ops"}
    ]
    assert not wrong, wrong


def test_python_imports_run_one_way():
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in package_files():
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for module in imported(path):
            target = module.split(".")[0]
            if own in level and target in level and level[target] > level[own]:
                wrong.append(f"{relative(path)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_public_ops_have_an_example_that_runs():
    wrong = []
    for path in (PACKAGE / "ops").glob("*.py") if (PACKAGE / "ops").is_dir() else ():
        tree = ast.parse(text_of(path))
        public: set[str] = set()
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                public = {e.value for e in ast.walk(node.value) if isinstance(e, ast.Constant)}
        for node in tree.body:
            is_public = isinstance(node, ast.FunctionDef) and node.name in public
            if is_public and ">>>" not in (ast.get_docstring(node) or ""):
                wrong.append(f"{relative(path)}: {node.name}")
    assert not wrong, "\n".join(wrong)


# --- every file -------------------------------------------------------------------------

EVERY = (*CPP, ".py", ".pyi", ".cmake")
THIS = Path(__file__).resolve()


def test_files_are_short_enough_to_live_in():
    long = {relative(p): text_of(p).count("\n") for p in sources(*EVERY)}
    long = {name: n for name, n in long.items() if n > LONGEST_FILE}
    assert not long, long


def test_every_file_names_its_licence():
    wrong = []
    for path in sources(*EVERY):
        mark = "//" if path.suffix in CPP else "#"
        head = text_of(path).splitlines()[:2]
        if path.stat().st_size and f"{mark} SPDX-License-Identifier: Apache-2.0" not in head:
            wrong.append(relative(path))
    assert not wrong, wrong


def test_nothing_is_left_for_later_and_nothing_tells_of_its_making():
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK|[Pp]laceholder)\b|/work/|\bissue #?\d+")
    wrong = [
        f"{relative(p)}: {found[0]}"
        for p in (*sources(*EVERY), *ROOT.glob("*.md"), *ROOT.glob("*.toml"))
        if p != THIS
        for found in words.finditer(text_of(p))
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_one_table_of_tolerances():
    """Tests of the ops take theirs from tolerances.py, never a number of their own."""
    number = re.compile(r"\b(rtol|atol|rel|abs|decimal)\s*=\s*(?!0\b[^.])[\d.]|\bapprox\(")
    wrong = [
        f"{relative(p)}: {found[0]}"
        for p in (TESTS / "ops").glob("*.py")
        for found in number.finditer(text_of(p))
    ]
    tables = [
        relative(p) for p in sources(".py") if re.search(r"^TOLERANCES\b.*=", text_of(p), re.M)
    ]
    assert not wrong, "\n".join(wrong)
    assert tables == ["tests/tolerances.py"]


def test_the_readme_begins_with_exactly_two_commands():
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("no README in this tree")
    block = re.search(r"```(?:sh|bash|shell|console)\n(.*?)```", text_of(readme), re.S)
    assert block is not None
    commands = [line for line in block[1].splitlines() if line.strip() and line[0] != "#"]
    assert len(commands) == 2, commands
