"""Makes second derivatives an error for backward passes that kernels compute."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _NoSecond(torch.autograd.Function):
    """Passes a gradient through; differentiating it raises an error that names its source."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, source: str) -> Tensor:
        ctx.source = source
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(
            f"{ctx.source} has no second derivative: its gradient is made by a kernel; "
            "differentiate the plain operations twice"
        )


def first_order(backward: Callable) -> Callable:
    """Decorates the ``backward`` of a ``Function`` that computes gradients by a kernel.

    torch's ``once_differentiable`` is not enough: if the incoming gradient needs no gradient itself
    (a loss that is the kernel's own value), it treats the result as a constant, and second
    derivatives would silently be missing.
    """

    @functools.wraps(backward)
    def told(ctx: Any, *grads: Tensor | None) -> Any:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():  # No second derivative can be asked for.
            return found
        if isinstance(found, tuple):
            return tuple(_marked(each, backward.__module__) for each in found)
        return _marked(found, backward.__module__)

    return told


def _marked(gradient: Tensor | None, source: str) -> Tensor | None:
    if gradient is None:
        return None
    return _NoSecond.apply(gradient.detach().requires_grad_(), source)
