"""``optim.update_rows`` on CUDA: one Adam step of a table's rows in one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.jit import triton_kernel


@triton_kernel
def _update(
    table_ptr, grad_ptr, mean_ptr, square_ptr, step_ptr, columns, lr, beta1, beta2, log_beta1,
    log_beta2, eps, C: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0), tl.arange(0, C)
    used = column < columns
    at = row * columns + column
    grad = tl.load(grad_ptr + at, used, 0.0)
    if tl.max((grad != 0).to(tl.int32), 0) > 0:
        step = tl.load(step_ptr + row) + 1
        mean, square = tl.load(mean_ptr + at, used, 0.0), tl.load(square_ptr + at, used, 0.0)
        mean += (1 - beta1) * (grad - mean)
        square += (1 - beta2) * (grad * grad - square)
        left1, left2 = 1 - tl.exp(step * log_beta1), 1 - tl.exp(step * log_beta2)
        moved = lr * (mean / left1) / (tl.sqrt(square / left2) + eps)
        tl.store(step_ptr + row, step)
        tl.store(mean_ptr + at, mean, used)
        tl.store(square_ptr + at, square, used)
        tl.store(table_ptr + at, tl.load(table_ptr + at, used, 0.0) - moved, used)


def update_rows(
    table: Float[Tensor, "n *k"],
    grad: Float[Tensor, "n *k"],
    mean: Float[Tensor, "n *k"],
    square: Float[Tensor, "n *k"],
    step: Float[Tensor, "n *one"],
    *,
    lr: float,
    betas: Sequence[float],
    eps: float,
) -> None:
    """As ``optim.update_rows``, for tensors on the current device.

    Raises:
        ValueError: a tensor that is changed in place is not contiguous.
    """
    if not all(t.is_contiguous() for t in (table, mean, square, step)):
        raise ValueError("a table and its moments must be contiguous")
    if not table.numel():
        return
    logs = (log(beta) if beta else -inf for beta in betas)
    columns = table[0].numel()
    _update[(len(table),)](
        table, grad.contiguous(), mean, square, step, columns, float(lr), *betas, *logs, eps,
        triton.next_power_of_2(columns),
    )  # fmt: skip
