"""PERSONA as a LightningModule: one photo's avatar, trained on captured and generated frames."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import lightning as L
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar, PoseState
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.avatar.vertex_colors import texture_colors
from persona.modules.avatar.views import HANDS, BodyMasks, ViewRenderer
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.losses.base import Loss, LossSum, Step
from persona.modules.losses.functional import occlusion_boundary
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import BodyIdentity, Camera, Channel, Frame, Render

ASSETS = ("base", "refined")
NOT_CHANNELS = frozenset({"alpha", "boundary", "mesh"})


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Adam's rates; the defaults are the paper's."""

    means: float = 1e-3
    appearance: float = 1e-2
    network: float = 1e-3
    poses: float = 1e-3
    hand_poses: float = 1e-4


class PersonaSystem(L.LightningModule):
    """Trains, tests and poses one subject's avatar.

    Source: PERSONA, ICCV 2025, arXiv:2508.09973.

    Args:
        body: body model.
        renderer: Gaussian rasteriser.
        avatar: builds the avatar once the subject is known.
        losses: terms by name.
        metrics: the protocol, cloned for each asset.
        optimizer: takes parameter groups.
        rates: learning rates of the groups.
        decay_at: share of the steps after which every rate is divided by 10.
        boundary_side: side of the boundary's dilation, share of the person's size.
        patch_boundary_side: the same on the face patch.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        body: SmplxBody,
        renderer: GaussianRenderer,
        avatar: AvatarBuilder,
        losses: Mapping[str, Loss],
        metrics: MetricCollection,
        optimizer: Callable[..., Optimizer],
        rates: LearningRates,
        decay_at: float = 0.75,
        boundary_side: float = 0.015,
        patch_boundary_side: float = 0.06,
    ) -> None:
        super().__init__()
        self.body = body.requires_grad_(False)
        self.builder = avatar
        self.views = ViewRenderer(renderer, avatar.triplane_extent_m)
        self.losses = LossSum(losses)
        self.metrics = nn.ModuleDict({asset: metrics.clone() for asset in ASSETS})
        self.val_metrics = metrics.clone(prefix="val/")
        self.make_optimizer = optimizer
        self.rates = rates
        self.decay_at = decay_at
        self.boundary_side = boundary_side
        self.patch_boundary_side = patch_boundary_side
        self.avatar: GaussianAvatar | None = None
        self.table: PoseTable | None = None
        self.test_table: PoseTable | None = None
        self.identity: BodyIdentity | None = None
        self.rows: list[dict[str, float | str]] = []

    # Construction ----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Builds the avatar and the pose tables from the DataModule's subject, once."""
        data, device = self.trainer.datamodule, self.device
        self.cpu()  # Building is host work.
        if self.avatar is None:
            poses = data.train_frames.poses(self.body.num_expression).to("cpu")
            self.build(data.subject.identity(self.body), len(poses.trans))
            self.initialise(data.subject)
            start = PoseTable.from_poses(self.body, poses)
            self.table.load_state_dict(start.state_dict())
        if self.test_table is None:
            poses = data.test_frames.poses(self.body.num_expression).to("cpu")
            table = PoseTable.from_poses(self.body, poses)
            self.test_table = table.requires_grad_(False)
        self.to(device)

    def build(self, identity: BodyIdentity, num_frames: int) -> None:
        """Makes the avatar of an identity and an empty pose table."""
        self.identity = identity
        self.avatar = self.builder.build(self.body, identity)
        self.body_masks = BodyMasks(self.avatar.template)
        self.table = PoseTable(num_frames=num_frames, num_expression=self.body.num_expression)

    def initialise(self, subject: Subject) -> None:
        """Colours from the textures: captured where the photo saw the body, else generated."""
        captured, generated = (subject.textures(s) for s in ("captured", "generated_0"))
        seen = torch.from_numpy(captured.mask)[..., None]
        unit = [torch.from_numpy(t.inpaint).float() / 255 for t in (captured, generated)]
        seg = torch.from_numpy(generated.seg_inpaint).float() / 255
        colors = [self._texture(t) for t in (torch.where(seen, *unit), unit[1], seg)]
        self.avatar.initialise_colors(*colors)

    def _texture(self, texture: Float[Tensor, "h w 3"]) -> Float[Tensor, "n 3"]:
        body = self.body
        return texture_colors(
            texture, body.uv, body.uv_faces, body.faces, self.avatar.template.subdivision
        )

    # Training --------------------------------------------------------------------------------

    def frame_step(self, frame: Frame, pose: PoseState) -> Step:
        """Poses the avatar for one frame and renders what the losses ask for."""
        captured = frame.name[0].startswith("captured")
        camera = frame.camera[0].local()
        posed = self.avatar(pose)
        cameras = {}
        if frame.has_patch[0]:
            cameras["patch"] = camera.crop(frame.patch_box_px[0], *frame.patch.shape[-2:])
        renders: dict[str, Render] = {}
        views = self.losses.needs(captured)
        if not frame.has_patch[0]:
            views.pop("patch", None)
        for view, channels in views.items():
            wanted = channels - NOT_CHANNELS
            if captured and "boundary" in channels:
                wanted |= {"position"}
            at = cameras.get(view, camera)
            renders[view] = self.views.render(self.avatar, posed, view, at, wanted)
        masks = self._masks(posed, camera, cameras, views)
        boundary = {
            view: self._boundary(frame, view, render, masks)
            for view, render in renders.items()
            if "position" in render.images
        }
        return Step(frame, self.avatar, posed, renders, masks, boundary)

    def _masks(
        self,
        posed: PosedAvatar,
        camera: Camera,
        cameras: Mapping[str, Camera],
        views: Mapping[str, frozenset[str]],
    ) -> dict[str, Tensor]:
        """Region masks of the body mesh for the views that ask for them."""
        asked = {view for view, needs in views.items() if needs & {"mesh", "boundary"}}
        masks: dict[str, Tensor] = {}
        if not asked:
            return masks
        vertices = self.body_masks(self.avatar.template, posed)
        if asked & set(ASSETS):
            masks |= self.body_masks.visible(vertices, camera, ("face", "eye"))
        if "patch" in asked:
            patch = self.body_masks.visible(vertices, cameras["patch"], ("face", "eye"))
            masks |= {f"patch_{name}": mask for name, mask in patch.items()}
        for hand in asked & set(HANDS):
            masks[hand] = self.body_masks.alone(vertices, camera, hand)
        return masks

    def _boundary(
        self, frame: Frame, view: str, render: Render, masks: Mapping[str, Tensor]
    ) -> Float[Tensor, "1 h w"]:
        if view == "patch":
            keep_out, side = masks["patch_face"], self.patch_boundary_side * frame.patch.shape[-1]
        else:
            keep_out, side = masks["face"], self.boundary_side * frame.person_px[0]
        position = render.images["position"].detach()
        return occlusion_boundary(position, keep_out[None], max(1, round(side)))

    def training_step(self, batch: Frame, batch_idx: int) -> Float[Tensor, ""]:
        """Mean loss of the batch's frames."""
        self.avatar.next_step()
        totals: list[Tensor] = []
        terms: dict[str, list[Tensor]] = {}
        for i in range(len(batch.name)):
            frame = batch[i : i + 1]
            total, parts = self.losses(self.frame_step(frame, self.table(frame.index[0])))
            totals.append(total)
            for name, value in parts.items():
                terms.setdefault(name, []).append(value)
        loss = torch.stack(totals).mean()
        # Processes see different terms: only the sum can be averaged over them.
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(totals), sync_dist=True)
        means = {f"train/loss/{k}": torch.stack(v).mean() for k, v in terms.items()}
        self.log_dict(means, batch_size=len(totals))
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        """One optimiser for avatar and pose tables; one division of the rates by 10."""
        rates = self.rates
        groups = self.avatar.parameter_groups(
            lr=rates.means, color_lr=rates.appearance, network_lr=rates.network
        )
        groups += self.table.parameter_groups(lr=rates.poses, hand_lr=rates.hand_poses)
        optimizer = self.make_optimizer(groups)
        milestone = max(1, int(self.decay_at * self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [milestone], gamma=0.1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # Rendering and testing -------------------------------------------------------------------

    def render(
        self, pose: PoseState, camera: Camera, asset: str = "refined"
    ) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
        """Premultiplied colour and alpha of the avatar in one pose.

        camera: unbatched; its world is the frame that ``pose`` is given in.
        """
        posed = self.avatar(pose)
        render = self.views.renderer(posed.gaussians(asset), camera, {"rgb": Channel(posed.rgb)})
        return render.images["rgb"], render.alpha

    def predict_frames(
        self, batch: Frame
    ) -> Iterator[tuple[Frame, dict[str, tuple[Tensor, Tensor]]]]:
        """Each frame with its renders over white and alphas by asset, batches of one."""
        for i in range(len(batch.name)):
            frame = batch[i : i + 1]
            posed = self.avatar(self.test_table(frame.index[0]))
            channels = {"rgb": Channel(posed.rgb)}
            predictions = {}
            for asset in ASSETS:
                gaussians, camera = posed.gaussians(asset), frame.camera[0].local()
                render = self.views.renderer(gaussians, camera, channels)
                white = render.images["rgb"] + 1 - render.alpha
                predictions[asset] = white[None].clamp(0, 1), render.alpha[None].clamp(0, 1)
            yield frame, predictions

    def validation_step(self, batch: Frame, batch_idx: int) -> None:
        """Scores the refined asset: ``val/psnr`` and so on."""
        for frame, predictions in self.predict_frames(batch):
            self.val_metrics.update(*predictions["refined"], frame.image, frame.mask)
        self.log_dict(self.val_metrics, batch_size=len(batch.name))

    def test_step(self, batch: Frame, batch_idx: int) -> None:
        """Scores every frame of the batch for both assets."""
        for frame, predictions in self.predict_frames(batch):
            row: dict[str, float | str] = {"frame": frame.name[0]}
            for asset, (image, alpha) in predictions.items():
                values = self.metrics[asset](image, alpha, frame.image, frame.mask)
                prefix = "" if asset == "refined" else f"{asset}_"
                row |= {f"{prefix}{key}": float(value) for key, value in values.items()}
            self.rows.append(row)

    def on_test_start(self) -> None:
        """Forgets the rows of an earlier test."""
        self.rows = []

    def on_test_epoch_end(self) -> None:
        """Logs ``test/psnr`` for the refined and ``test/base_psnr`` for the base asset.

        Every process gets the rows of all, in the order of the frames, which they took in turns.
        """
        if dist.is_initialized():
            parts: list[list] = [[] for _ in range(self.trainer.world_size)]
            dist.all_gather_object(parts, self.rows)
            self.rows = [row for turn in zip_longest(*parts) for row in turn if row is not None]
        for asset, metrics in self.metrics.items():
            prefix = "" if asset == "refined" else f"{asset}_"
            values = {f"test/{prefix}{k}": v for k, v in metrics.compute().items()}
            self.log_dict(values)
            metrics.reset()

    # Checkpoints -----------------------------------------------------------------------------

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """The avatar and the pose table: bodies, losses and metrics are rebuilt, not saved."""
        state = super().state_dict(*args, **kwargs)
        return {k: v for k, v in state.items() if k.startswith(("avatar.", "table."))}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, **kwargs):
        """Loads what ``state_dict`` saves; anything missing or left over is an error."""
        own = self.state_dict()
        differing = own.keys() ^ state_dict.keys()
        shapes = [k for k in own.keys() & state_dict.keys() if own[k].shape != state_dict[k].shape]
        if differing or shapes:
            first = sorted([*differing, *shapes])[0]
            raise UserError(
                f"checkpoint does not fit this avatar (first difference: {first}); "
                "use the configuration it was trained with"
            )
        return super().load_state_dict(state_dict, strict=False, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Adds what the avatar is built from."""
        checkpoint["persona"] = {
            "body": self.body.name,
            "body_digest": self.body.digest,
            "identity": {k: getattr(self.identity, k).cpu() for k in IDENTITY},
            "num_frames": len(self.table.trans),
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Builds the avatar of the checkpoint where there is none yet.

        Raises:
            UserError: not a checkpoint of this system, or made with another body.
        """
        made = checkpoint.get("persona")
        if made is None:
            raise UserError("not a checkpoint of persona; give a run folder made by train.py")
        if made["body_digest"] != self.body.digest:
            raise UserError(
                f"checkpoint was made with body {made['body']} ({made['body_digest'][:8]}), not "
                f"{self.body.name} ({self.body.digest[:8]}); choose that body"
            )
        if self.avatar is None:
            self.build(BodyIdentity(**made["identity"]), made["num_frames"])


IDENTITY = ("betas", "face_offset", "joint_offset")
