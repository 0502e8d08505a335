"""Trains and tests any method: training steps, learning rates, growth and scores."""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import reduce
from operator import add
from statistics import fmean
from typing import TYPE_CHECKING

import lightning as L
import torch
from jaxtyping import Bool, Float
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from persona.data.datamodule import SubjectDataModule, spread
from persona.data.frames import FrameDataset
from persona.errors import UserError
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.density.base import Density, Resize
from persona.modules.losses.base import Loss, LossSum, Step, Terms
from persona.modules.optim import forget, replace_rows
from persona.runtime.ddp import DDP, of_all_processes
from persona.runtime.step_graph import TOTAL, GraphedLoss
from persona.systems.avatar_module import AvatarModule
from persona.systems.method import Method
from persona.systems.schedule import Schedule, rate_factor
from persona.systems.scores import Predicted, Scores
from persona.types import CAPTURED, Frame, Pose

log = logging.getLogger(__name__)

CHECK_EVERY = 100
"""Steps between two checks whether the renderer ran out of room; each check waits for the GPU."""


if TYPE_CHECKING:

    class _Trainer(L.Trainer):
        """Lightning's trainer with the attributes that it sets but does not declare."""

        datamodule: SubjectDataModule
        log_every_n_steps: int


class Fit(AvatarModule):
    """Trains, tests and saves any ``Method``.

    Args:
        method: the method to train.
        losses: loss terms by name.
        metrics: metrics of the protocol, cloned for each asset.
        optimizer: makes the optimiser from parameter groups.
        schedule: learning rates, and the last step that may change the number of Gaussians.
        density: changes the number of Gaussians; None leaves it as it is.
        focus_margin_px: perceptual losses see a window as large as the largest person's box with
            this margin around it; None shows them whole images.
        cuda_graph: on CUDA, capture the step of each kind of frame once and replay it.
    """

    if TYPE_CHECKING:
        trainer: _Trainer  # type: ignore[override]
    test_table: PoseTable
    """Poses of the test frames; ``setup`` makes it."""

    def __init__(
        self,
        *,
        method: Method,
        losses: Mapping[str, Loss],
        metrics: MetricCollection,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        density: Density | None = None,
        focus_margin_px: int | None = 32,
        cuda_graph: bool = True,
    ) -> None:
        super().__init__(method)
        self.losses = LossSum(losses)
        self.scores = Scores(metrics, method.assets)
        self.val_metrics = metrics.clone(prefix="val/")
        self.make_optimizer, self.schedule = optimizer, schedule
        self.density = density or Density()
        self.watching = False
        """Whether the density watches the current step."""
        self.focus_margin_px = focus_margin_px
        self.focus_px: tuple[int, int] | None = None
        self.cuda_graph = cuda_graph
        self.graphed: GraphedLoss | None = None
        self.graph_watches = False
        """Whether the steps in the captured graphs are watched by the density."""
        self.build_seconds = 0.0
        """Time to build the avatar, with the pass of a network if any; 0 if it was loaded."""
        self.random_after_build: Tensor | None = None
        """State of torch's generator once the avatar was built, until a training begins with it."""
        self.finished = False
        """Whether ``finish`` was called since the system was made."""
        self.last_loss: float | None = None
        """Loss of the last step that was logged."""

    # Construction ----------------------------------------------------------------------------

    def focus(self, frames: FrameDataset) -> tuple[int, int] | None:
        """Size of a window that holds the person in every frame; sides are multiples of 32 pixels.

        None if perceptual losses see whole images, or if frames differ in size.
        """
        margin = self.focus_margin_px
        if margin is None or len({store.size for store in frames.stores}) > 1:
            return None
        (height, width), (most_high, most_wide) = frames.person_extent_px, frames.stores[0].size

        def padded(extent: int) -> int:
            return (extent + 2 * margin + 31) // 32 * 32

        return min(padded(height), most_high), min(padded(width), most_wide)

    def setup(self, stage: str) -> None:
        """Builds the avatar and the pose tables from the DataModule's subject, once."""
        data, device = self.trainer.datamodule, self.device
        self.graphed = None  # Drop stale CUDA graphs before moving to the CPU frees their memory.
        self.cpu()  # The avatar is built on the CPU.
        if not self.method.built:
            started = time.perf_counter()
            # Reset the random state: what was built before (LPIPS, for example) must not matter.
            torch.manual_seed(torch.initial_seed())
            subjects = data.subjects if self.method.many else (data.subject,)
            if self.method.reads_texture:
                for subject in subjects:
                    subject.check_textured()
            self.method.people = tuple(subject.name for subject in subjects)
            identity = self.method.dress(subjects[0].identity(self.body), data.train_frames)
            self.build(identity, len(data.train_frames))
            start = self.pose_table(data.train_frames)
            self.method.see_poses(start)
            for subject in subjects:
                self.method.initialise(subject)
            self.table.load_state_dict(start.state_dict())
            self.build_seconds = time.perf_counter() - started
            self.random_after_build = torch.get_rng_state()
        if stage == "fit":
            if self.density.watches(1) and not self.avatar.per_gaussian:
                name = type(self.avatar).__name__
                raise UserError(f"{name} cannot change its number of Gaussians: use density=none")
            self.focus_px = self.focus(data.train_frames)
            subjects = data.subjects if self.method.many else (data.subject,)
            if self.random_after_build is not None:
                # Lightning's DDP seeds at each test and each training, one process does not: what a
                # test before the training did to the generator must not matter.
                torch.set_rng_state(self.random_after_build)
                self.random_after_build = None
            self.method.see_frames(subjects, data.train_frames)
        if "test_table" not in self._modules:
            self.test_table = self.pose_table(data.test_frames).requires_grad_(False)
        self.to(device)

    # Training --------------------------------------------------------------------------------

    def training_step(self, batch: Frame, batch_idx: int) -> Float[Tensor, ""]:
        """Loss of the batch: the sum of its frames' losses, each times its share."""
        self.avatar.begin_step()
        self.watching = self.density.watches(self.global_step + 1)
        loss, terms = self.graphed_loss(batch) if self.uses_graph else self.batch_loss(batch)
        every = self.trainer.log_every_n_steps
        if every and (self.trainer.global_step + 1) % every == 0:
            # Only in steps that are logged, because reading the values takes milliseconds.
            self.log_terms(terms)
        return loss

    def log_terms(self, terms: Sequence[Mapping[str, Float[Tensor, ""]]]) -> None:
        """Logs the mean loss over the frames of all processes, and the mean of each term.

        A term's mean is over the frames that have it. All frames have the same weight: weighted by
        their shares, the logged loss would jump whenever the photograph is in the batch.
        """
        numbers = [
            dict(zip(frame, torch.stack([*frame.values()]).tolist(), strict=True))
            for frame in terms
        ]
        frames = [frame for part in of_all_processes(numbers) for frame in part]
        means = mean_terms(frames)
        self.last_loss = means.pop(TOTAL)
        named = {f"train/loss/{name}": value for name, value in means.items()}
        self.log_dict({"train/loss": self.last_loss, **named}, batch_size=len(frames))

    def batch_loss(self, batch: Frame) -> tuple[Float[Tensor, ""], list[Terms]]:
        """Loss of the batch, and for each frame its loss (``TOTAL``) and its terms."""
        losses = [self.frame_loss(batch[i : i + 1]) for i in range(len(batch.name))]
        parts = [share * loss for share, (loss, _) in zip(batch.shares, losses, strict=True)]
        return reduce(add, parts), [{TOTAL: total, **terms} for total, terms in losses]

    def frame_loss(self, frame: Frame) -> tuple[Float[Tensor, ""], Terms]:
        """Loss and terms of one frame, posed by its row of the pose table."""
        step = self.frame_step(frame, self.table(frame.index[0]))
        if self.watching:
            self.density.watch(step)
        return self.losses(step)

    def frame_step(self, frame: Frame, pose: Pose, turn: int = 0) -> Step:
        """Renders the frame by ``Method.observe``, with the images that the losses read."""
        captured = frame.role[0] == CAPTURED
        step = self.method.observe(frame, pose, self.losses.reads(captured), turn)
        step.focus_px = self.focus_px
        return step

    @property
    def uses_graph(self) -> bool:
        """Whether steps are replayed from CUDA graphs."""
        allowed = self.cuda_graph and (self.density.replayable or not self.watching)
        return allowed and self.device.type == "cuda" and self.avatar.capturable

    def graphed_loss(self, batch: Frame) -> tuple[Float[Tensor, ""], list[Terms]]:
        """``batch_loss``, replayed from CUDA graphs."""
        if self.graphed is None or self.graph_watches != self.watching:
            self.graphed, self.graph_watches = GraphedLoss(self), self.watching
        result = self.graphed(batch)
        if self.trainer.global_step % CHECK_EVERY == 0 and self.renderer.grow_slots():
            self.graphed = None
        return result

    def optimizer_step(self, *args, **kwargs) -> None:
        """Lightning's hook at the end of a step; the density acts here, before any checkpoint."""
        super().optimizer_step(*args, **kwargs)
        step, self.watching = self.global_step + 1, False
        decides = self.density.decides(step)
        if decides:
            self._unite_density()
        change = self.density(self.avatar, step)
        if decides:
            self.resize(change)

    def _unite_density(self) -> None:
        # A module without a trainer may be saved as well.
        if self._trainer is not None and self.trainer.world_size > 1:
            self.density.unite(self._any_process)

    def _any_process(self, here: Bool[Tensor, "n"]) -> Bool[Tensor, "n"]:
        """True wherever it is true in any process."""
        return self.trainer.strategy.reduce(here.float(), reduce_op="max") > 0

    def resize(self, change: Resize | None) -> None:
        """Changes the number of Gaussians in the avatar and the optimiser, in all processes.

        Every process calls it at the same step, and all apply what the first one decided; None
        changes nothing. Captured graphs are dropped, because they read the old parameters' memory.

        Raises:
            UserError: several processes without the strategy of ``trainer=ddp``.
        """
        strategy = self.trainer.strategy
        change = strategy.broadcast(change and change.cpu())
        if change is None:
            return
        replaced = self.avatar.resize(change.keep, change.fresh)
        for name, value in change.settings.items():
            self.avatar.get_buffer(name).copy_(value)
        for optimizer in self.trainer.optimizers:
            replace_rows(optimizer, replaced, change.keep)
            forget(optimizer, self.avatar.set_rows(change.anew))
        self.graphed = None
        if isinstance(strategy, DDP):
            strategy.rewrap()
        elif self.trainer.world_size > 1:
            raise UserError("density: on several processes Gaussians grow with trainer=ddp alone")

    def on_fit_start(self) -> None:
        """Lets perceptual losses keep the features of captured frames, if there are few of these.

        Also sets the step after which the density leaves the number of Gaussians as it is.
        """
        self.density.rests_after = self.schedule.last_change(
            self.trainer.estimated_stepping_batches
        )
        self.losses.keep_targets(self.trainer.datamodule.train_frames.roles.count(CAPTURED))

    def on_train_end(self) -> None:
        """Frees graphs and features, after a last check whether the renderer ran out of room."""
        if self.graphed is not None:
            self.renderer.grow_slots()
            self.graphed = None
        self.losses.keep_targets(0)
        self.finish()

    def finish(self) -> None:
        """Calls ``Method.finish``, which sees the avatar as tests do."""
        training = self.training
        self.eval()
        self.method.finish(self.trained_frames)
        self.train(training)
        self.finished = True

    def trained_frames(self, role: str, most: int) -> Iterator[tuple[Frame, Pose]]:
        """At most so many frames of a role, evenly spread, and their trained poses."""
        frames = self.trainer.datamodule.train_frames
        rows = [row for row, own in enumerate(frames.roles) if own == role]
        for number in spread(len(rows), most):
            frame = frames[[rows[number]]].to(self.device)
            yield frame, self.table(frame.index[0])

    def frame_kind(self, frame: Frame) -> Hashable:
        """What a step depends on besides the frame's tensors; each kind has its own CUDA graph.

        Features that the losses keep are constants of a graph, so a captured frame with kept
        features is its own kind.
        """
        captured = frame.role[0] == CAPTURED
        keeps = captured and self.losses.kept is not None
        name = frame.name[0] if keeps else None
        return captured, frame.has_patch[0], name, self.method.frame_kind(frame)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimiser for avatar and pose tables; the rates fall at each ``decay_at``.

        Parameters that all frames share follow ``rate_rule``. Rows of the pose table do not: only
        its own frame gives a row a gradient, and Adam cancels the factor that the mean over the
        step's frames puts on it.
        """
        schedule, steps = self.schedule, self.trainer.estimated_stepping_batches
        frames = self.frames_per_step()
        factor = rate_factor(schedule.rate_rule, frames)
        groups = self.method.parameter_groups()
        for group in groups:
            rate = group["lr"]
            assert isinstance(rate, float | int)
            group["lr"] = rate * factor
        groups += self.table.parameter_groups(lr=schedule.poses, hand_lr=schedule.hand_poses)
        if frames > 1 and self.trainer.is_global_zero:
            text = "%d steps of %d frames; rate_rule=%s: rates x %.3g, those of poses x 1"
            log.info(text, steps, frames, schedule.rate_rule, factor)
        optimizer = self.make_optimizer(groups)
        falls = schedule.falls(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falls, "interval": "step"}}

    def frames_per_step(self) -> int:
        """Number of frames, over all processes, whose gradients one optimiser step averages."""
        trainer = self.trainer
        batches = trainer.world_size * trainer.accumulate_grad_batches
        return trainer.datamodule.batch_size * batches

    # Testing ---------------------------------------------------------------------------------

    def predict_frames(self, batch: Frame) -> Iterator[tuple[Frame, dict[str, Predicted]]]:
        """Yields each frame as a batch of one, with its renders over white and alphas by asset."""
        for i in range(len(batch.name)):
            frame = batch[i : i + 1]
            posed = self.avatar(self.test_table(frame.index[0]), frame.view)
            renders = self.method.render_posed(posed, frame.camera[0].local(), self.assets)
            predictions = {
                asset: ((rgb + 1 - alpha)[None].clamp(0, 1), alpha[None].clamp(0, 1))
                for asset, (rgb, alpha) in renders.items()
            }
            yield frame, predictions

    def validation_step(self, batch: Frame, batch_idx: int) -> None:
        """Scores the method's result as ``val/psnr`` and so on."""
        for frame, predictions in self.predict_frames(batch):
            self.val_metrics.update(*predictions[self.assets[-1]], frame.image, frame.mask)
        self.log_dict(self.val_metrics, batch_size=len(batch.name))

    def test_step(self, batch: Frame, batch_idx: int) -> None:
        """Scores every asset in every frame of the batch."""
        for frame, predictions in self.predict_frames(batch):
            self.scores.add(frame, predictions)

    def on_test_start(self) -> None:
        """Clears the scores of an earlier test."""
        self.scores.forget()

    def on_test_epoch_end(self) -> None:
        """Logs ``test/psnr`` of the result and ``test/base_psnr`` of an asset ``base``."""
        self.log_dict({f"test/{name}": value for name, value in self.scores.means().items()})

    # Checkpoints -----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds the density's counts, united over all processes since only one of them writes."""
        super().on_save_checkpoint(checkpoint)
        self._unite_density()
        checkpoint["persona"]["density"] = self.density.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Builds the checkpoint's avatar if none is built yet, and reads the density's counts."""
        super().on_load_checkpoint(checkpoint)
        counts = checkpoint["persona"].get("density", {})
        self.density.load_state_dict({k: v.to(self.device) for k, v in counts.items()})


def mean_terms(frames: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each loss term's mean over the frames that have it."""
    values: dict[str, list[float]] = {}
    for frame in frames:
        for name, value in frame.items():
            values.setdefault(name, []).append(value)
    return {name: fmean(found) for name, found in values.items()}
