"""Test-time pose fit: only the test frames' SMPL-X parameters move, the avatar is fixed."""

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.losses.base import Loss, LossSum
from persona.modules.optim import RowAdam
from persona.systems.fit import Fit
from persona.systems.method import Method

NONE = "none"
"""The mode that fits nothing, which every method has."""


def pose_fit_losses(mode: str, system: DictConfig) -> LossSum | None:
    """The losses of a mode of the method, all of weight 1; None for ``none``.

    Args:
        mode: One of the method's ``pose_fits``, or none.
        system: Configuration of the ``Fit``, whose own losses are built anew.

    Raises:
        UserError: no such mode, or the run's configuration lacks a loss of it.
    """
    if mode == NONE:
        return None
    method: type[Method] = get_class(system.method._target_)
    losses = system.losses
    if mode not in method.pose_fits:
        choices = ", ".join((NONE, *method.pose_fits))
        raise UserError(f"pose_fit={mode} is unknown to this run's method: choose {choices}")
    names = method.pose_fits[mode]
    missing = [name for name in names if name not in losses]
    if missing:
        raise UserError(f"pose_fit={mode} needs the loss {missing[0]}, which this run has not")
    equal = {"weight": 1.0, "captured": 1.0, "generated": 1.0}
    terms: dict[str, Loss] = {}
    for name in names:
        settings = {k: v for k, v in equal.items() if k in losses[name]}
        terms[name] = instantiate(OmegaConf.merge(losses[name], settings))
    return LossSum(terms)


def fit_poses(
    system: Fit,
    frames: FrameDataset,
    losses: LossSum,
    *,
    updates: int = 40,
    lr: float = 1e-3,
    hand_lr: float = 1e-4,
) -> PoseTable:
    """Fits a table of the frames' poses with ``updates`` Adam steps a frame and the paper's rates.

    Source: PERSONA, arXiv:2508.09973 (test-time fit).

    Raises:
        UserError: the method has no gradient to fit by.
    """
    if not system.method.differentiable:
        name = type(system.method).__name__
        raise UserError(f"{name} renders without gradient: poses cannot be fitted; pose_fit=none")
    table = system.pose_table(frames).to(system.device)
    losses = losses.to(system.device)
    kept, system.losses = system.losses, losses
    flags = [p.requires_grad for p in system.avatar.parameters()]
    system.avatar.requires_grad_(False).eval()
    optimizer = RowAdam(table.parameter_groups(lr=lr, hand_lr=hand_lr))
    try:
        for row in track(range(len(frames)), "Fitting test poses"):
            frame = frames[[row]].to(system.device)
            for turn in range(row * updates, (row + 1) * updates):
                optimizer.zero_grad()
                total, _ = losses(system.frame_step(frame, table(frame.index[0]), turn + 1))
                total.backward()
                optimizer.step()
    finally:
        system.losses = kept
        for parameter, flag in zip(system.avatar.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
    return table.requires_grad_(False)
