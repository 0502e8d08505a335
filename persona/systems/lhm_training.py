"""LHM's network over many people: its losses, its averaged weights, and its schedule."""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from persona.data.people.portraits import Portraits
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.losses import distance, stretch
from persona.modules.lhm.small import SmallLhm, load_small
from persona.modules.lhm.template import sample_points, template_on
from persona.modules.lhm.transformer import MultimodalBlock
from persona.modules.lhm.vit import Block
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.clock import TrainingClock
from persona.systems.schedule import warm_cosine
from persona.types import Gaussians

log = logging.getLogger(__name__)


class LhmTraining(L.LightningModule):
    """The network, its averaged weights, and its schedule.

    Source: LHM, arXiv:2503.10625, 3.4, whose face identity term is left out.

    Args:
        model: The network's size.
        body: Body model of all people.
        renderer: Gaussian rasteriser.
        perceptual: LPIPS network; None leaves the term out.
        lr: AdamW's highest rate.
        warmup: Steps until it is reached.
        steps: Steps of the whole training, over which it falls along a cosine.
        weight_decay: Weight decay of matrices; none of biases and norms.
        decay: Decay of the averaged weights, in the long run: at first they follow faster.
        weights: First and last weight of each term.
        ramp: Steps over which weights go from first to last.
        minutes: Train so long, over all resumed calls together; the rate falls by the clock if
            that is ahead of the steps. None trains all steps.
        call_minutes: Stop a call after so long, so that it can be resumed.
        compile: Compile the transformer (CUDA; a minute at the start).
        recompute: Compute the transformer's layers again for the gradient: less memory.
        start: Weights to begin with, which another training of this size wrote.

    Raises:
        UserError: ``start`` cannot be read, or is of another size.
    """

    point_dirs: Float[Tensor, "n 3 s"]

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
        call_minutes: float | None = None,
        compile: bool = False,
        recompute: bool = False,
        start: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.size, self.body, self.renderer = model, body.requires_grad_(False), renderer
        self.lr, self.warmup, self.weight_decay = lr, warmup, weight_decay
        self.weights = {name: tuple(ends) for name, ends in weights.items()}
        self.ramp, self.perceptual, self.decay = ramp, perceptual, decay
        self.clock = TrainingClock(steps=steps, minutes=minutes, call_minutes=call_minutes)
        self.net = model.fresh()
        if start is not None:
            load_small(self.net, Path(start))
        self.net.network.transformer.recompute = recompute
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        if compile:
            self.net.network.transformer.compile()
        self.template, vertex = template_on(body, sample_points(body, model.num_points))
        # A shape is linear in its coefficients, so the points' shape basis is enough.
        point_dirs = body.shape_dirs[vertex].detach().clone()
        self.register_buffer("point_dirs", point_dirs, persistent=False)
        self.last_loss: float | None = None
        self.waited_s, self.since, self.ended = 0.0, (0, time.monotonic()), time.monotonic()

    def configure_model(self) -> None:
        """Shards the network over all processes where the trainer asks for it (``trainer=fsdp``).

        The average stays whole in each process, so that one alone can check it and write it.
        """
        # Lightning calls it in every fit.
        if self.device_mesh is None or isinstance(self.net, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for module in [*self.net.modules()]:
            if isinstance(module, Block | MultimodalBlock):
                fully_shard(module, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    @property
    def log_every(self) -> int:
        """Steps between two lines of the log."""
        return self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Set, not declared.

    def on_train_start(self) -> None:
        """Starts the clock."""
        self.clock.start()
        self.ended = time.monotonic()
        self.since = self.global_step, self.ended

    def on_train_batch_start(self, batch: Portraits, index: int) -> None:
        """Counts the time that the batch was waited for."""
        self.waited_s += time.monotonic() - self.ended

    def on_train_batch_end(self, outputs: Any, batch: Portraits, index: int) -> None:
        """Logs the speed, and the share of time spent waiting for people; stops by the clock."""
        now = self.ended = time.monotonic()
        (step, since), every = self.since, self.log_every
        self.clock.end(self.trainer)
        if self.global_step < step + 10 * every:
            return
        steps, seconds = self.global_step - step, now - since
        log.info(
            "step %d: %.3f s a step, %.0f %% of it waiting for people; loss %.4f; at most %.1f GiB",
            self.global_step, seconds / steps, 100 * self.waited_s / seconds, self.last_loss or 0.0,
            most_memory_gib(self.device),
        )  # fmt: skip
        self.waited_s, self.since = 0.0, (self.global_step, now)

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
        if self.global_step % self.log_every == 0:
            self.log_dict({f"train/loss/{k}": v.detach() for k, v in terms.items()})
            self.last_loss = float(loss.detach())
        return loss

    def terms(self, net: nn.Module, batch: Portraits, step: int | None) -> dict[str, Tensor]:
        """Each term's mean over the pictures of the batch.

        step: Step of the training, which bounds the scales; None after it.
        """
        made = PointGaussians(**{k: v.float() for k, v in vars(self.run(net, batch, step)).items()})
        # Poses and projections need single precision.
        with torch.autocast(self.device.type, enabled=False):
            rgb, alpha = self.renders(made, batch)
            seen = rgb + 1 - alpha
            truth = batch.colour.flatten(0, 1).float() / 255
            mask = batch.mask.flatten(0, 1)[:, None].float() / 255
            terms = {
                "image": (seen - truth).abs().mean(), "mask": (alpha - mask).abs().mean(),
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
    ) -> tuple[Float[Tensor, "k 3 h w"], Float[Tensor, "k 1 h w"]]:
        """Premultiplied colour and alpha of every picture: all views of a person, then the next."""
        views = batch.colour.shape[1]
        shape = torch.einsum("ncs,bs->bnc", self.point_dirs, batch.betas)
        bones = self.body.transforms_from_matrices(batch.joints[:, None], batch.rotations)
        means, quaternions = self.template.carry(
            made[:, None], shape[:, None], batch.betas.new_zeros(self.body.num_expression),
            bones, batch.trans,
        )  # fmt: skip
        # Unbind the batch at once: indexing would make each picture's gradient a whole batch of
        # zeros.
        posed = zip(*(t.flatten(0, 1).unbind() for t in (means, quaternions)), strict=True)
        people = zip(made.scales.unbind(), made.opacity.unbind(), strict=True)
        own = itertools.chain.from_iterable(itertools.repeat(one, views) for one in people)
        scenes = [
            Gaussians(mean, scales, turn, opacity)
            for (mean, turn), (scales, opacity) in zip(posed, own, strict=True)
        ]
        colours = [rgb for rgb in made.rgb.unbind() for _ in range(views)]
        return self.renderer.many(scenes, batch.camera, colours)

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Averages the weights after a step."""
        step = self.global_step
        if step:
            # After few steps, the average would mostly consist of the untrained weights.
            kept = min(self.decay, (1 + step) / (10 + step))
            average: list[Tensor] = [*self.average.parameters()]
            newest = [parameter.detach() for parameter in self.net.parameters()]
            with torch.no_grad():
                if isinstance(self.net, FSDPModule):
                    # One at a time: together they are the whole network once more.
                    for mean, part in zip(average, newest, strict=True):
                        mean.lerp_(whole(part), 1 - kept)
                else:
                    torch._foreach_lerp_(average, newest, 1 - kept)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW as LHM's; warm-up, then a cosine to a hundredth."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.dim() > 1]
        others = [p for p in trained if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, self.lr, betas=(0.9, 0.95))
        return warm_cosine(optimizer, self.clock.done, self.warmup)

    def transfer_batch_to_device(
        self, batch: Portraits, device: torch.device, index: int
    ) -> Portraits:
        """Batches are made where they are used."""
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the time."""
        checkpoint["trained_s"] = self.clock.trained_s

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the time."""
        self.clock.earlier_s = checkpoint["trained_s"]

    def on_train_end(self) -> None:
        """Stops the clock."""
        self.clock.stop()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The network and its average: the rest is built again."""
        state = super().state_dict(*args, **kwargs)
        return {k: v for k, v in state.items() if k.startswith(("net.", "average."))}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads what ``state_dict`` returns."""
        missing = self.state_dict().keys() ^ state_dict.keys()
        if strict and missing:
            raise UserError(
                f"checkpoint of another network (first difference: {min(missing)}); choose the"
                " model= of its training"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered from all processes; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def most_memory_gib(device: torch.device) -> float:
    """The most that tensors have held on a GPU so far; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
