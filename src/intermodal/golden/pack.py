"""`intermodal.pack`: from a live model in a notebook to a project folder that is ready to ship.

    intermodal.pack(model, name="digits", inputs=X[:16])

Takes the object and some inputs; hands on the folder, with the model, its golden cases, and an `intermodal.toml` whose
requirements are the versions this process runs.

Rules, in order:
1. Golden cases are what the saved file answers through the worker's own backend, here and now; where they are not what
   the live object answers, nothing is written.
2. Names beyond the libraries' (own modules) must be in `trust`; their files go with the model.
3. A folder is replaced only if `pack` wrote all of it, for the same name, and nobody edited it since; the lock stays.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from intermodal.errors import InputError
from intermodal.golden.cases import GoldenCase, GoldenFile, write_golden
from intermodal.golden.folder import BASES, put_in_place, refuse_foreign, write_project_file
from intermodal.golden.inputs import NamedRequest
from intermodal.golden.live import LiveInputs, differences, live_inputs
from intermodal.golden.save import Saved, is_onnx, save
from intermodal.golden.snapshot import closure, distributions_of, environment, names_in, normal
from intermodal.host.held import Sweep, scratch
from intermodal.project.paths import dns_label
from intermodal_server.contract import ModelSettings
from intermodal_server.worker.replay import replay

_OWN = ("intermodal", "intermodal_server")


def pack(model: Any, *, name: str, inputs: Any, folder: str | Path | None = None, trust: Iterable[str] = ()) -> Path:
    """The project folder that now holds `model`, its golden cases and its environment.

    Args:
        model: a fitted scikit-learn estimator, anything else with `predict`, or an ONNX ModelProto.
        name: a DNS label; the image will be called that.
        inputs: rows to record golden cases from: an array, a DataFrame, a list of texts, or {name: array} for ONNX.
        folder: where to write; default: a folder called `name` in the current one.
        trust: dotted names of own classes and functions that may be in the model.

    Raises:
        InputError: a name that is no DNS label, a model without `predict`, own names that `trust` lacks, inputs it does
            not take, or a saved file that answers differently.
        ProjectError: the folder exists and is not one that `pack` wrote.
    """
    if name != dns_label(name):
        raise InputError(f"{name!r} is no name for an image", found="a-z, 0-9 and -", next=f'name="{dns_label(name)}"')
    if not is_onnx(model) and not hasattr(model, "predict"):
        raise InputError(
            f"{type(model).__name__} has no predict method",
            next="wrap it in a class with predict(self, **inputs) and write a project with predictor = …",
        )
    target = Path(folder) if folder is not None else Path.cwd() / name
    refuse_foreign(target, name)
    trusted = tuple(trust)
    names = set() if is_onnx(model) else names_in(model)
    own = _own_modules(names, trusted)
    live = live_inputs(model, inputs)
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}."
    Sweep(dry_run=False).abandoned("temporary", target.parent, prefix)
    with scratch(target.parent, prefix) as temporary:
        made = temporary / target.name
        made.mkdir()
        saved = save(model, names, made, trusted)
        copied = [_copy_module(module, made) for module in own]
        golden = _record(model, name, live, saved, made, trusted)
        write_golden(made / "golden.json", golden)
        pins = _pins(names, saved, live)
        write_project_file(made, name, saved.artifact, pins, trusted, copied, _python())
        put_in_place(made, target)
    return target


def _own_modules(names: set[tuple[str, str]], trusted: Sequence[str]) -> list[str]:
    """Modules of this project that the model needs: no library's, not the notebook's."""
    own = []
    for module, name in sorted(names):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or module == "__main__" or distributions_of([top]):
            continue
        if f"{module}.{name}" not in trusted:
            raise InputError(
                f"the model holds {module}.{name}, which is not in trust",
                found=f"{module} belongs to no installed package",
                next=f'trust=["{module}.{name}"] if it is your own',
            )
        own.append(module)
    return sorted(set(own))


def _copy_module(module: str, folder: Path) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(
            f"the source of {module} is not to be found", next="put it into a .py file beside the notebook"
        )
    parts = module.split(".")
    relative = Path(*parts, "__init__.py") if spec.submodule_search_locations else Path(*parts).with_suffix(".py")
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in relative.parents:
        if parent != Path():
            (folder / parent / "__init__.py").touch()
    shutil.copyfile(spec.origin, target)
    return relative.as_posix()


def _record(model: Any, name: str, live: LiveInputs, saved: Saved, folder: Path, trust: Sequence[str]) -> GoldenFile:
    settings = ModelSettings(
        name=name,
        version="0.1.0",
        backend=saved.backend,
        loader=saved.loader,
        artifact=saved.artifact,
        signature=live.signature,
        call=live.call,
        trust=tuple(trust),
    )
    answer = replay(settings, str(folder), "", [item.request for item in live.requests])
    cases = [_case(item, response) for item, response in zip(live.requests, answer["responses"], strict=True)]
    found = [] if is_onnx(model) else differences(model, live, cases[-1])
    if found:
        raise InputError(
            f"the saved file does not answer like the live model ({saved.artifact})",
            found=found,
            next="a model with state outside of what is saved cannot be shipped; make predict depend on its attributes",
        )
    imported = {normal(n): v for n, v in answer["environment"]["distributions"].items() if normal(n) not in _OWN}
    return GoldenFile("training", environment(imported), tuple(cases))


def _python() -> str:
    """The Python of the image: this one where a Debian base has it."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if own in BASES:
        return own
    warnings.warn(f"no Debian base has Python {own}; the image takes {next(iter(BASES))}", UserWarning, stacklevel=3)
    return next(iter(BASES))


def _case(item: NamedRequest, response: dict[str, Any]) -> GoldenCase:
    if "outputs" not in response:
        raise InputError(
            f"the model refuses the inputs of {item.name!r}",
            found=str(response.get("error")),
            next="give inputs as predict takes them: inputs=X[:16]",
        )
    return GoldenCase(item.name, item.request, {"outputs": response["outputs"]})


def _pins(names: set[tuple[str, str]], saved: Saved, live: LiveInputs) -> dict[str, str]:
    needed = distributions_of(module for module, _ in names) | set(saved.needs)
    needed |= {"pandas"} if live.call == "columns" else set()
    return {name: version for name, version in closure(needed).items() if name not in _OWN}
