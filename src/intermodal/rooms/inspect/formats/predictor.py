"""A plain Python class: `load(self, folder)` and `predict(self, **inputs)`, read by AST and never executed.

Takes `module:Class` and the project's folder; hands on one named input per argument of `predict`. Datatypes come from
the golden request, else from annotations, else FP64 marked `assumed`.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.formats.interface import Found, Opened
from intermodal.rooms.inspect.signature import recorded_tensors
from intermodal_server.contract import Signature, TensorSpec

MAX_SOURCE_BYTES = 8 << 20
SHAPE_HELP = "class Digits:\n    def load(self, folder): …\n    def predict(self, X): …"
DISTRIBUTIONS = {
    "numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "sklearn": "scikit-learn", "joblib": "joblib",
    "onnxruntime": "onnxruntime", "xgboost": "xgboost", "lightgbm": "lightgbm", "PIL": "pillow", "yaml": "pyyaml",
    "cv2": "opencv-python-headless", "skops": "skops", "torch": "torch", "tokenizers": "tokenizers",
    "safetensors": "safetensors",
}  # fmt: skip
ANNOTATED = {
    "float64": "FP64", "float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "int16": "INT16",
    "int8": "INT8", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "bool_": "BOOL",
    "str_": "BYTES", "bytes_": "BYTES", "object_": "BYTES", "str": "BYTES", "bytes": "BYTES",
}  # fmt: skip


class PredictorFormat:
    """A class of the project instead of a format of a framework."""

    name = "predictor"

    def claims(self, opened: Opened) -> bool:
        """The project names one."""
        return bool(opened.predictor)

    def read(self, opened: Opened) -> Found:
        """The class's inputs and what its module imports.

        Raises:
            ArtifactError: the module or class is missing, or has no `load` or `predict` that can be called.
        """
        module, _, class_name = opened.predictor.partition(":")
        path = module_path(opened.root, module)
        tree = _parse(path)
        found = next((n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == class_name), None)
        if found is None:
            classes = [n.name for n in tree.body if isinstance(n, ast.ClassDef)]
            raise ArtifactError(
                f"{path.name} has no class {class_name}",
                found=f"classes: {', '.join(classes) or 'none'}",
                next=f'predictor = "{module}:{classes[0]}"' if classes else SHAPE_HELP.splitlines(),
            )
        if opened.path is not None or opened.folder != opened.root:
            _method(found, "load", path)  # without files there is nothing to load
        predict = _method(found, "predict", path)
        inputs = _inputs(predict, opened, path) if predict is not None else _recorded(opened)
        outputs = tuple(recorded_tensors(opened.golden, "response", "outputs").values())
        imports = imported_names(tree)
        local = {p.stem for p in opened.root.glob("*.py")} | {p.parent.name for p in opened.root.glob("*/__init__.py")}
        tops = {name.split(".")[0] for name in imports} - local - sys.stdlib_module_names
        return Found(
            format=self.name,
            framework="",
            backend="predictor",
            loader="predictor",
            call="named",
            signature=Signature(inputs, outputs),
            requires=tuple(sorted({"numpy"} | {DISTRIBUTIONS[t] for t in tops if t in DISTRIBUTIONS})),
            imports=imports,
        )


def module_path(root: Path, module: str) -> Path:
    """The source file of a module below `root`.

    Raises:
        ArtifactError: there is none.
    """
    base = root.joinpath(*module.split("."))
    for candidate in (base.with_name(base.name + ".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    raise ArtifactError(
        f"no module {module} for the predictor", found=f"neither {base.name}.py nor {base.name}/ in the project folder",
        next="predictor is MODULE:CLASS, relative to the project file",
    )  # fmt: skip


def _parse(path: Path) -> ast.Module:
    try:
        source = path.read_bytes()
        if len(source) > MAX_SOURCE_BYTES:
            raise ValueError("larger than any source file")
        return ast.parse(source, path.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError) as error:
        raise ArtifactError(f"{path.name} cannot be read as Python", found=str(error)[:200]) from error


def _method(found: ast.ClassDef, name: str, path: Path) -> ast.FunctionDef | None:
    """The method; None when it may come from a base class."""
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.AsyncFunctionDef) and node.name == name:
            raise ArtifactError(
                f"{found.name}.{name} is async",
                found=f"line {node.lineno} of {path.name}",
                next="make it a plain method",
            )
    if found.bases:
        return None
    raise ArtifactError(
        f"{found.name} has no method {name}", found=f"line {found.lineno} of {path.name}", next=SHAPE_HELP.splitlines()
    )


def _inputs(predict: ast.FunctionDef, opened: Opened, path: Path) -> tuple[TensorSpec, ...]:
    recorded = recorded_tensors(opened.golden, "request", "inputs")
    arguments = [*predict.args.posonlyargs, *predict.args.args][1:] + predict.args.kwonlyargs
    if predict.args.kwarg is not None and not arguments:
        return _recorded(opened)
    if predict.args.posonlyargs[1:] or predict.args.vararg or not arguments:
        raise ArtifactError(
            f"{predict.name} must take its inputs by name",
            found=f"line {predict.lineno} of {path.name}: def predict({ast.unparse(predict.args)})",
            next="def predict(self, X): …, one argument per input",
        )
    return tuple(recorded.get(a.arg) or _annotated(a) for a in arguments)


def _recorded(opened: Opened) -> tuple[TensorSpec, ...]:
    return tuple(recorded_tensors(opened.golden, "request", "inputs").values())


def _annotated(argument: ast.arg) -> TensorSpec:
    words = {node.attr if isinstance(node, ast.Attribute) else node.id
             for node in ast.walk(argument.annotation or ast.Module([], []))
             if isinstance(node, (ast.Attribute, ast.Name))}  # fmt: skip
    known = [ANNOTATED[word] for word in sorted(words) if word in ANNOTATED]
    if known and words & {"list", "List", "Sequence"}:
        return TensorSpec(argument.arg, known[0], (-1,))
    return TensorSpec(argument.arg, known[0] if known else "FP64", (-1, -1), assumed=True)


def imported_names(tree: ast.Module) -> tuple[str, ...]:
    """Absolute modules and names imported anywhere in a module: "numpy", "mylib.transforms.Log"."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.update(f"{node.module}.{alias.name}" if alias.name != "*" else node.module for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.update(f".{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names)
    return tuple(sorted(names))
