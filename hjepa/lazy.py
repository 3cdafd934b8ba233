"""Packages that import what they offer when it is first asked for."""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    homes: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self.homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(self.homes[name]), name)

    def __setattr__(self, name: str, value: object) -> None:
        # Importing hjepa.train puts that module into the package, where the function of its name stands.
        if not (name in self.homes and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def offer(package: str, homes: Mapping[str, str]) -> None:
    """Let `package` offer names, each from the module that is its home, without importing them yet.

    torch takes seconds to import, and who asks how a sweep stands needs none of it.
    """
    module = sys.modules[package]
    vars(module)["homes"] = homes
    module.__class__ = _LazyPackage
