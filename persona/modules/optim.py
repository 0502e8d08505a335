"""Adam with groups whose rows move only when they were used."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class RowAdam(torch.optim.Adam):
    """Fused Adam in which a group marked ``rows=True`` counts and moves each row on its own.

    Per-frame tables need this: a frame's row must stay still, moments included, in steps that do
    not sample the frame (its gradient row is then exactly zero).
    Source: Kingma and Ba 2015, Algorithm 1.
    """

    def __init__(
        self,
        params: list[dict],
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-15,
    ) -> None:
        super().__init__(params, lr=lr, betas=tuple(betas), eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
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
                        self._update_rows(parameter, group)
        return loss

    def _update_rows(self, parameter: Tensor, group: dict) -> None:
        grad, state = parameter.grad, self.state[parameter]
        if not state:
            shape = len(parameter), *[1] * (parameter.dim() - 1)
            state["step"] = torch.zeros(shape, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        used = (grad.flatten(1) != 0).any(1).view_as(state["step"]).to(grad.dtype)
        state["step"] += used
        mean = state["exp_avg"].lerp_(grad, (1 - beta1) * used)
        square = state["exp_avg_sq"].lerp_(grad.square(), (1 - beta2) * used)
        step = state["step"].clamp_min(1)
        denominator = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.sub_(group["lr"] * used * (mean / (1 - beta1**step)) / denominator)
