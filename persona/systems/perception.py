"""Training of the perception network on random people, and its scores on others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from persona.data.people.stream import Batch, PeopleStream
from persona.modules.perception.losses import perception_losses
from persona.modules.perception.network import PerceptionNet, Percepts
from persona.modules.perception.weights import load_net
from persona.systems.clock import TrainingClock
from persona.systems.schedule import warm_cosine


class PerceptionSystem(L.LightningModule):
    """The network, its averaged weights, and its schedule.

    Args:
        lr: Adam's highest rate.
        warmup: Steps until it is reached.
        steps: Steps of the whole training, over which it falls along a cosine.
        decay: Decay of the averaged weights.
        pretrained: Start SqueezeNet from ImageNet's weights.
        start: Weights to start from, a file that an earlier training wrote.
        compile: Compile the network (CUDA; a minute at the start).
        joint_weight: Weight of the joints' losses beside the maps'.
        only_joints: Trains what reads the joints and leaves the maps as they are.
        minutes: Train no longer, with the rate falling by the clock where that is ahead of the
            steps. Counted from the first batch.
    """

    def __init__(  # noqa: PLR0913 (by keyword)
        self,
        *,
        lr: float = 1e-3,
        warmup: int = 300,
        steps: int = 10_000,
        decay: float = 0.999,
        pretrained: bool = True,
        start: str | None = None,
        compile: bool = False,
        joint_weight: float = 1.0,
        only_joints: bool = False,
        minutes: float | None = None,
    ):
        super().__init__()
        self.lr, self.warmup = lr, warmup
        net = PerceptionNet(pretrained) if start is None else load_net(start)
        self.net: PerceptionNet = (
            net.train().requires_grad_(True).to(memory_format=torch.channels_last)
        )
        self.joint_weight = joint_weight
        self.clock = TrainingClock(steps=steps, minutes=minutes)
        if only_joints:
            self.net.requires_grad_(False)
            self.net.joints.requires_grad_(True)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.seen = torch.compile(self.net) if compile else self.net
        self.last_loss: float | None = None

    @property
    def log_every(self) -> int:
        """Steps between two lines of the log."""
        return self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Set, not declared.

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Starts the clock when the first batch has arrived."""
        self.clock.start()

    def on_train_batch_end(self, outputs: object, batch: Batch, index: int) -> None:
        """Ends the training when its time is over."""
        self.clock.end(self.trainer)

    def on_train_end(self) -> None:
        """Stops the clock."""
        self.clock.stop()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the training's time."""
        checkpoint["trained_s"] = self.clock.trained_s

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the training's time; older checkpoints have none."""
        self.clock.earlier_s = checkpoint.get("trained_s", 0.0)

    def training_step(self, batch: Batch, index: int) -> Float[Tensor, ""]:
        """Sum of the losses."""
        image = batch.image.contiguous(memory_format=torch.channels_last)
        percepts = self.seen(image, batch.prompt)
        terms = perception_losses(percepts, batch.truth, self.joint_weight)
        loss = torch.stack(list(terms.values())).sum()
        if self.global_step % self.log_every == 0:
            self.log_dict({f"train/loss/{k}": v.detach() for k, v in terms.items()})
            self.last_loss = float(loss.detach())
        return loss

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Averages the weights after a step."""
        if self.global_step:
            self.average.update_parameters(self.net)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; warm-up, then a cosine to a hundredth."""
        learnt = [p for p in self.net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learnt, self.lr, weight_decay=0.01)
        return warm_cosine(optimizer, self.clock.done, self.warmup)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, index: int) -> Batch:
        """Batches are made where they are used."""
        return batch


@torch.no_grad()
def score(
    net: Callable[[Tensor, Tensor], Percepts], stream: PeopleStream, batches: int
) -> dict[str, float]:
    """Parts (mean IoU of the classes), matte (IoU), place on the body, normals, depth, joints."""
    device = stream.device
    classes = torch.zeros(28, 28, dtype=torch.long, device=device)
    both = either = place = angle = depth = pixels = joint_depth = joint_row = count = 0.0
    for _, batch in zip(range(batches), stream, strict=False):
        pred, truth = net(batch.image, batch.prompt), batch.truth
        classes += confusion(pred.parts.argmax(1), truth.parts)
        mine, true = pred.alpha > 0, truth.alpha > 0.5
        both += float((mine & true).sum())
        either += float((mine | true).sum())
        inside = truth.parts > 0
        distance = (pred.surface - truth.surface).norm(dim=1)[inside]
        cosine = (F.normalize(pred.normal, dim=1) * truth.normal).sum(1)[inside]
        place += float(distance.sum())
        angle += float(cosine.clamp(-1, 1).acos().rad2deg().sum())
        depth += float((pred.depth - truth.depth)[:, 0].abs()[inside].sum())
        pixels += float(inside.sum())
        # The pelvis is where depth is measured from.
        off = (pred.joints - F.pad(truth.joints, (0, 1)))[:, 1:].abs()
        joint_depth += float(off[..., 2].mean(1).sum())
        joint_row += float(off[..., 1].mean(1).sum())
        count += len(off)
    return {
        "test/parts_iou": float(mean_iou(classes)), "test/mask_iou": both / either,
        "test/surface_mm": 1e3 * place / pixels, "test/normal_deg": angle / pixels,
        "test/joint_depth_mm": 1e3 * joint_depth / count,
        "test/joint_row_percent": 100 * joint_row / count, "test/depth_mm": 1e3 * depth / pixels,
    }  # fmt: skip


def confusion(pred: Int[Tensor, "*b"], truth: Int[Tensor, "*b"]) -> Int[Tensor, "28 28"]:
    """How often each true class (rows) was predicted as each class."""
    return torch.bincount((truth * 28 + pred).flatten(), minlength=28 * 28).view(28, 28)


def mean_iou(classes: Int[Tensor, "k k"]) -> Float[Tensor, ""]:
    """Mean over the true classes but the background of intersection over union."""
    hit = classes.diagonal().float()
    union = classes.sum(0) + classes.sum(1) - classes.diagonal()
    there = classes.sum(1) > 0
    there[0] = False
    return (hit / union.clamp(min=1))[there].mean()
