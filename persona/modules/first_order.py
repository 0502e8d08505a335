"""Backward passes by kernels, which cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _NoSecond(torch.autograd.Function):
    """A gradient as it is, which says where it comes from when it is asked for its own."""

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
    """For the ``backward`` of a ``Function`` whose gradients are not built from torch's operations.

    torch's ``once_differentiable`` lets gradients pass for constants where what comes from behind
    needs no gradient: for a loss that is the kernel's own value, second derivatives would be left
    out without a word.
    """

    @functools.wraps(backward)
    def told(ctx: Any, *grads: Tensor | None) -> Any:
        with torch.no_grad():
            found = backward(ctx, *grads)
        if not torch.is_grad_enabled():  # Nobody asks for a second one.
            return found
        if isinstance(found, tuple):
            return tuple(_marked(each, backward.__module__) for each in found)
        return _marked(found, backward.__module__)

    return told


def _marked(gradient: Tensor | None, source: str) -> Tensor | None:
    if gradient is None:
        return None
    return _NoSecond.apply(gradient.detach().requires_grad_(), source)
