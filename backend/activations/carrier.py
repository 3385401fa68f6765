"""Carriers: modules whose class has been extended so that intervention points stand before and behind ``forward``.

A carrier is the module itself under a subclass of its own class. Its parameters, their names in ``state_dict``, its
attributes and its place in the model stay the same; ``isinstance`` still holds, so that a library which records hidden
states by class records what the point let through. No hook is involved: ``torch.compile`` traces ``forward`` as it
traces any other.

Not covered: TorchScript modules, whose class cannot change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from backend.core.errors import Refused

INPUT_NAMES: tuple[str, ...] = ("hidden_states", "hidden_state", "input_tensor", "x", "input", "inputs")
_POINTS = "_intervention_points"


class Carrier(nn.Module):
    """Mixed in before the module's own class; its points stand at ``input``, ``update`` and ``output``."""

    def forward(self, *args, **kwargs):
        points = self._intervention_points
        busy = False
        for point in points.values():
            busy = busy or point.busy
        if not busy:
            return super().forward(*args, **kwargs)
        if "input" in points and points["input"].busy:
            args, kwargs = replace_input(args, kwargs, points["input"])
        out = super().forward(*args, **kwargs)
        if "update" in points and points["update"].busy:
            base = read_input(args, kwargs)
            out = replace_output(out, lambda value: points["update"](value, base))
        if "output" in points and points["output"].busy:
            out = replace_output(out, points["output"])
        return out


def carry(module: nn.Module, place: str, point: nn.Module) -> None:
    """Put ``point`` at ``place`` of ``module``. Raises ``Refused`` where the class cannot be extended."""
    if not isinstance(module, Carrier):
        try:
            # Kept out of the registered submodules: a Sequential would call it as one of its steps.
            module.__dict__[_POINTS] = {}
            module.__class__ = carrier_class(type(module))
        except TypeError as error:
            raise Refused(
                f"An intervention point in a {type(module).__name__} was asked for.",
                f"The class of this module cannot be extended ({error}).",
                "Load the model as ordinary modules, not as TorchScript.",
            ) from error
    module.__dict__[_POINTS][place] = point


def carried(module: nn.Module) -> dict[str, nn.Module]:
    """The points of a module by place; empty for a module that is no carrier."""
    return dict(module.__dict__.get(_POINTS, {}))


def release(module: nn.Module) -> None:
    """Give a carrier its own class back."""
    if isinstance(module, Carrier):
        del module.__dict__[_POINTS]
        module.__class__ = type(module).__mro__[2]


@cache
def carrier_class(cls: type) -> type:
    """The subclass of ``Carrier`` and ``cls``, under the name of ``cls``: placement by class name keeps working."""
    return type(cls.__name__, (Carrier, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def read_input(args: tuple, kwargs: dict) -> Tensor:
    """The tensor that a module transforms: its first argument, or the first of the usual names."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    for name in INPUT_NAMES:
        if isinstance(kwargs.get(name), Tensor):
            return kwargs[name]
    raise Refused(
        "The input of a module was asked for by an intervention point.",
        f"It got no tensor as its first argument nor under {', '.join(INPUT_NAMES)}.",
        "Use the '#residual' part of this site, which needs no input.",
    )


def replace_input(args: tuple, kwargs: dict, change: Callable[[Tensor], Tensor]) -> tuple[tuple, dict]:
    value = read_input(args, kwargs)
    if args and args[0] is value:
        return (change(value), *args[1:]), kwargs
    name = next(name for name in INPUT_NAMES if kwargs.get(name) is value)
    return args, {**kwargs, name: change(value)}


def replace_output(out, change: Callable[[Tensor], Tensor]):
    """Change the main tensor of a module's output: the tensor itself, a tuple's first, an output record's first."""
    if isinstance(out, Tensor):
        return change(out)
    if isinstance(out, tuple):
        first = change(out[0])
        return out._replace(**{out._fields[0]: first}) if hasattr(out, "_fields") else (first, *out[1:])
    if isinstance(out, dict):
        name = next((key for key, value in out.items() if isinstance(value, torch.Tensor)), None)
        if name is not None:
            return type(out)(**{**out, name: change(out[name])})
    raise Refused(
        "The output of a module was asked for by an intervention point.",
        f"It is a {type(out).__name__} without a tensor to change.",
        "Choose a site whose module returns a tensor, a tuple or an output record.",
    )
