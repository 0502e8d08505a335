"""Adam in which rows of a table change only in steps that use them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RowAdam(torch.optim.Adam):
    """Fused Adam; in a group marked ``rows=True`` each row has its own step count.

    Per-frame tables need this: in steps that do not sample a frame, its row and the row's moments
    must not change. The row's gradient is then exactly zero.
    Source: Kingma and Ba 2015, Algorithm 1.
    """

    def __init__(
        self,
        params: list[dict],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-15,
    ) -> None:
        super().__init__(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)

    @torch.no_grad()
    def step(  # type: ignore[override]  # Lightning's closures give tensors, torch's type floats.
        self, closure: Callable[[], Tensor] | None = None
    ) -> Tensor | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [g for g in groups if not g.get("rows")]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("rows"):
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update_rows(parameter, parameter.grad, group)
        return loss

    def _update_rows(self, parameter: Tensor, grad: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            shape = len(parameter), *[1] * (parameter.dim() - 1)
            state["step"] = torch.zeros(shape, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        update = update_rows
        if parameter.device.type == "cuda":
            from persona.modules import optim_triton  # Triton comes with CUDA builds of torch.

            update = optim_triton.update_rows
        moments = state["exp_avg"], state["exp_avg_sq"], state["step"]
        settings = {key: group[key] for key in ("lr", "betas", "eps")}
        update(parameter, grad, *moments, **settings)


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
    """One Adam step, in place, of the rows whose gradient has any entry other than zero.

    Args:
        table: The trained table.
        grad: Its gradient.
        mean: Running mean of the gradients.
        square: Running mean of their squares.
        step: Number of updates of each row so far; dimensions after the first have size 1.
        lr: Learning rate.
        betas: Decay of both means.
        eps: Added to the square root of ``square``.
    """
    beta1, beta2 = betas
    used = (grad.flatten(1) != 0).any(1).view_as(step).to(grad.dtype)
    step += used
    mean.lerp_(grad, (1 - beta1) * used)
    square.lerp_(grad.square(), (1 - beta2) * used)
    count = step.clamp_min(1)
    denominator = (square / (1 - beta2**count)).sqrt_().add_(eps)
    table.sub_(lr * used * (mean / (1 - beta1**count)) / denominator)


def replace_rows(
    optimizer: torch.optim.Optimizer,
    replaced: Mapping[nn.Parameter, nn.Parameter],
    keep: Int[Tensor, "k"],
) -> None:
    """Lets an optimiser continue after rows of its parameters were removed or added.

    Kept rows keep their moments, new rows start with zero. State of a whole parameter, such as
    Adam's step, stays.

    Args:
        optimizer: An optimiser whose state has scalars and tensors with a row for each of the
            parameter's.
        replaced: The new parameter for each old one.
        keep: Rows of the old parameters with which the new ones begin.
    """
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(p, p) for p in group["params"]]
    for old, new in replaced.items():
        state = optimizer.state.pop(old, None)
        if state is None:
            continue
        optimizer.state[new] = {
            name: _with_rows(value, keep, len(new)) if is_by_row(value, old) else value
            for name, value in state.items()
        }


def forget(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Sets the per-entry state of parameters, such as Adam's moments, to zero."""
    for parameter in parameters:
        for value in optimizer.state.get(parameter, {}).values():
            if is_by_row(value, parameter):
                value.zero_()


def is_by_row(value: object, parameter: Tensor) -> bool:
    """Whether an entry of an optimiser's state has one row for each row of the parameter."""
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(parameter)


def _with_rows(value: Tensor, keep: Tensor, count: int) -> Tensor:
    kept = value[keep.to(value.device)]
    return torch.cat([kept, value.new_zeros(count - len(kept), *value.shape[1:])])
