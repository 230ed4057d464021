"""Python functions that a study brings along, named `file.py:function`. They run only where the user allows code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from luthier.errors import CodeRefused, LuthierError


def names_function(name: str) -> bool:
    """Whether the name has the form `file.py:function`."""
    file, colon, function = name.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def load_function(
    name: str, folder: Path, *, what: str, allowed: bool, otherwise: str, error: type[LuthierError]
) -> Callable[..., Any]:
    """The function of a name. It runs the file, with all that the user may do.

    Args:
        name: `file.py:function`, the file relative to `folder`.
        folder: The study's folder. A file outside it, also through a link, is refused.
        what: What the function is used as, for messages: `metric`, `reader`, `rule`.
        allowed: Whether the user has allowed code.
        otherwise: What the user can do instead of allowing it, for the message.
        error: Raised where the file or the function is missing, or the file does not run.

    Raises:
        CodeRefused: Code is not allowed, or the file lies outside the folder.
    """
    file, _, function_name = name.rpartition(":")
    if not allowed:
        raise CodeRefused(
            f"{what} '{name}' is Python code, and code is not allowed. Read {folder / file}; if you trust it, run "
            f"again with --allow-code, or {otherwise}."
        )
    path = function_file(name, folder, what=what, error=error)
    try:
        module = _run(path, path.read_bytes(), what)
    except (Exception, SystemExit) as fault:  # the user's code may raise anything
        raise error(f"{what} '{name}': {path} does not run: {type(fault).__name__}: {fault}") from fault
    function = getattr(module, function_name, None)
    if not callable(function):
        there = ", ".join(k for k, own in vars(module).items() if callable(own) and not k.startswith("_"))
        raise error(f"{what} '{name}': {path} has no function '{function_name}' (found: {there or 'none'}).")
    return function  # type: ignore[no-any-return]


@lru_cache(maxsize=16)
def _run(path: Path, content: bytes, what: str) -> ModuleType:
    """The file as a module, run once as long as its content stays."""
    name = f"luthier_user_{what}_{sha256(str(path).encode() + content).hexdigest()[:16]}"
    spec = spec_from_loader(name, _SourceAlone(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look a module up by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class _SourceAlone(SourceFileLoader):
    """Runs the text that the user can read: no compiled file beside it is believed, and none is written."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def function_file(name: str, folder: Path, *, what: str, error: type[LuthierError]) -> Path:
    """The file of a function, which lies in the folder.

    Raises:
        CodeRefused: It lies outside the folder.
    """
    path = (folder / name.rpartition(":")[0]).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise CodeRefused(f"{what} '{name}': {path} lies outside the study's folder {folder.resolve()}. Copy it there.")
    if not path.is_file():
        raise error(f"{what} '{name}': there is no file {path}. The name is relative to the study's folder.")
    return path
