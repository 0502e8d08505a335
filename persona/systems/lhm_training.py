"""LHM's network over many people: its losses, its averaged weights, and its schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from persona.data.people.portraits import Portraits
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.losses import distance, stretch
from persona.modules.lhm.models import SmallLhm
from persona.modules.lhm.template import sample_points, template_on
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Channel


class LhmTraining(L.LightningModule):
    """The network, its averaged weights, and its schedule.

    Source: LHM, arXiv:2503.10625, 3.4, whose face identity term is left out.

    Args:
        model: The network's size.
        body: Of all people.
        renderer: Gaussian rasteriser.
        perceptual: LPIPS network; None leaves the term out.
        lr: AdamW's highest rate.
        warmup: Steps until it is reached.
        steps: Steps of the whole training, over which it falls along a cosine.
        weight_decay: Of matrices; none of biases and norms.
        decay: Of the averaged weights.
        weights: First and last weight of each term.
        ramp: Steps over which weights go from first to last.
        minutes: Train so long, with the rate falling by the clock; None trains all steps. A run
            that is gone on with begins this anew.
        compile: Compile the transformer (CUDA; a minute at the start).
        recompute: Compute the transformer's layers again for the gradient: less memory.
    """

    def __init__(  # noqa: PLR0913 (by keyword)
        self,
        *,
        model: SmallLhm,
        body: SmplxBody,
        renderer: GaussianRenderer,
        weights: Mapping[str, Sequence[float]],
        perceptual: nn.Module | None = None,
        lr: float = 4e-4,
        warmup: int = 300,
        steps: int = 20_000,
        weight_decay: float = 0.05,
        decay: float = 0.999,
        ramp: int = 2000,
        minutes: float | None = None,
        compile: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.body, self.renderer = model, body.requires_grad_(False), renderer
        self.lr, self.warmup, self.steps, self.weight_decay = lr, warmup, steps, weight_decay
        self.weights = {name: tuple(ends) for name, ends in weights.items()}
        self.ramp, self.minutes, self.perceptual = ramp, minutes, perceptual
        self.started = time.monotonic()
        self.net = model.fresh()
        self.net.network.transformer.recompute = recompute
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(decay))
        if compile:
            self.net.network.transformer.compile()
        points = sample_points(body, model.num_points)
        self.template, vertex = template_on(body, points)
        self.register_buffer("vertex", vertex, persistent=False)
        self.last_loss: float | None = None

    def on_train_start(self) -> None:
        """Starts the clock."""
        self.started = time.monotonic()

    def done(self, step: int) -> float:
        """Share of the training that lies behind."""
        if self.minutes is None:
            return min(1.0, step / self.steps)
        return min(1.0, (time.monotonic() - self.started) / (60 * self.minutes))

    def training_step(self, batch: Portraits, index: int) -> Float[Tensor, ""]:
        """Weighted sum of the terms."""
        terms = self.terms(self.net, batch, self.global_step)
        share = min(1.0, self.global_step / self.ramp)
        weighted = [
            (first + share * (last - first)) * terms[name]
            for name, (first, last) in self.weights.items()
            if name in terms
        ]
        loss = torch.stack(weighted).sum()
        if self.global_step % self.trainer.log_every_n_steps == 0:
            self.log_dict({f"train/loss/{k}": v.detach() for k, v in terms.items()})
            self.last_loss = float(loss.detach())
        return loss

    def terms(self, net: nn.Module, batch: Portraits, step: int | None) -> dict[str, Tensor]:
        """Each term's mean over the pictures of the batch.

        step: Of the training, which bounds the scales; None after it.
        """
        made = PointGaussians(**{k: v.float() for k, v in vars(self.run(net, batch, step)).items()})
        colours, masks, found, alphas = [], [], [], []
        # Poses and projections need single precision.
        with torch.autocast(self.device.type, enabled=False):
            for person, view, rgb, alpha in self.renders(made, batch):
                colours.append(rgb + 1 - alpha)
                alphas.append(alpha)
                found.append(batch.colour[person, view].float() / 255)
                masks.append(batch.mask[person, view][None].float() / 255)
            seen, truth = torch.stack(colours), torch.stack(found)
            terms = {
                "image": (seen - truth).abs().mean(),
                "mask": (torch.stack(alphas) - torch.stack(masks)).abs().mean(),
                "round": stretch(made.scales).mean(), "near": distance(made.offset).mean(),
            }  # fmt: skip
            if self.perceptual is not None:
                terms["lpips"] = self.perceptual(seen.clamp(0, 1), truth).mean()
        return terms

    def run(self, net: nn.Module, batch: Portraits, step: int | None) -> PointGaussians:
        """Gaussians of each person."""
        return net(batch.photo, self.template, step)

    def renders(
        self, made: PointGaussians, batch: Portraits
    ) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """Person, view, premultiplied colour and alpha of every picture."""
        for person in range(len(batch.betas)):
            one = made[person]
            moved = self.body.shape_dirs @ batch.betas[person]
            joints = self.body.joint_regressor @ (self.body.template + moved)
            shape, still = moved[self.vertex], batch.betas.new_zeros(self.body.num_expression)
            for view in range(batch.colour.shape[1]):
                bones = self.body.transforms_from_matrices(joints, batch.rotations[person, view])
                trans = batch.trans[person, view]
                posed = self.template.pose(one, shape, still, bones, trans)
                render = self.renderer(posed, batch.camera(person, view), {"rgb": Channel(one.rgb)})
                yield person, view, render.images["rgb"], render.alpha

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Averages the weights after a step."""
        if self.global_step:
            self.average.update_parameters(self.net)
        if self.minutes is not None and self.done(self.global_step) >= 1:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> dict:
        """AdamW as LHM's; warm-up, then a cosine to a hundredth."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.dim() > 1]
        others = [p for p in trained if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, self.lr, betas=(0.9, 0.95))

        def rate(step: int) -> float:
            share = self.done(step)
            fall = 0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2
            return fall * min(1.0, (step + 1) / self.warmup)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: Portraits, device: torch.device, index: int
    ) -> Portraits:
        """Batches are made where they are used."""
        return batch

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """The network and its average: the rest is built again."""
        state = super().state_dict(*args, **kwargs)
        return {k: v for k, v in state.items() if k.startswith(("net.", "average."))}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, **kwargs):
        """What ``state_dict`` gives."""
        missing = self.state_dict().keys() ^ state_dict.keys()
        if strict and missing:
            raise RuntimeError(f"checkpoint of another network: {min(missing)}")
        return super().load_state_dict(state_dict, strict=False, **kwargs)
