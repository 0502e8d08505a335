"""PERSONA: one photo's avatar, trained on captured and generated frames."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.frames import FrameDataset
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.avatar.builder import AvatarBuilder
from persona.modules.avatar.driver import ClipDrawer, PoseDriver
from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.avatar.surface_truth import SurfaceTruth
from persona.modules.avatar.vertex_colors import texture_colors
from persona.modules.avatar.views import HANDS, BodyMasks, ViewRenderer
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.modules.cloth.garment import ALIKE_M, undress
from persona.modules.losses.functional import occlusion_boundary
from persona.modules.losses.persona_step import PersonaStep
from persona.modules.parallel import branches
from persona.modules.render.gaussian import GaussianRenderer
from persona.systems.carved_garment import carve_garment
from persona.systems.method import Draw, Method, TrainedFrames, Views
from persona.systems.solved_colours import SolvedColours
from persona.types import (
    CAPTURED,
    PLAIN_VIEW,
    BodyIdentity,
    Camera,
    Frame,
    Pose,
    Render,
    View,
)

log = logging.getLogger(__name__)
NOT_CHANNELS = frozenset({"alpha", "boundary", "mesh"})


class PersonaMethod(Method):
    """One photo's avatar.

    Source: PERSONA, ICCV 2025, arXiv:2508.09973.

    Args:
        body: body model.
        renderer: Gaussian rasteriser.
        avatar: builds the avatar once the person is known.
        boundary_side: width of an occlusion boundary, as a share of the person's size.
        patch_boundary_side: width of one on the face patch, as a share of the patch.
        photo_colours: when training ends, solve for the colours of what the photographs show, see
            ``SolvedColours``.
        best_frames: and take those of the rest from so many generated frames.
    """

    body: SmplxBody
    builder: AvatarBuilder
    avatar: GaussianAvatar
    pose_fits: ClassVar[Mapping[str, Sequence[str]]] = {
        "image": ("img", "img_refined"),
        "image_geo": ("img", "img_refined", "geo", "geo_refined"),  # What the paper reports.
    }

    def __init__(
        self,
        *,
        body: SmplxBody,
        renderer: GaussianRenderer,
        avatar: AvatarBuilder,
        boundary_side: float = 0.015,
        patch_boundary_side: float = 0.06,
        photo_colours: bool = False,
        best_frames: int = 0,
    ) -> None:
        super().__init__(body=body, renderer=renderer, avatar=avatar)
        self.views = ViewRenderer(renderer, avatar.triplane_extent_m)
        self.boundary_side = boundary_side
        self.surface: SurfaceTruth | None = None
        self.patch_boundary_side = patch_boundary_side
        self.solved = SolvedColours(photos=photo_colours, best_frames=best_frames)

    def dress(self, identity: BodyIdentity, frames: FrameDataset) -> BodyIdentity:
        """Gives a garment that hangs around the legs a surface of its own, if that is asked for.

        A photograph's skirt is on the body's skin already, and is taken off it; others are carved.
        """
        undressed = undress(self.body, identity) if self.builder.skirt else None
        if undressed is not None:
            return undressed.identity
        if not self.builder.garment:
            return identity
        return replace(identity, garment=carve_garment(self.body, identity, frames))

    def build(self, identity: BodyIdentity) -> None:
        """Makes the avatar of a person, and the regions of its body."""
        super().build(identity)
        self.body_masks = BodyMasks(self.avatar.template)

    def initialise(self, subject: Subject) -> None:
        """Takes colours from the captured texture where it shows the body, else the generated one.

        Without generated frames the captured texture, filled in, serves as both.
        """
        splits = subject.textured_splits
        captured, generated = (subject.textures(split) for split in (splits[0], splits[-1]))
        seen = torch.from_numpy(captured.mask)[..., None]
        unit = [torch.from_numpy(t.inpaint).float() / 255 for t in (captured, generated)]
        seg = torch.from_numpy(generated.seg_inpaint).float() / 255
        told = subject.identity(self.body)
        taken_off = not torch.equal(told.face_offset, self.identity.face_offset.cpu())
        dressed = self.body.shape(told)[0] if taken_off else None
        textures = torch.where(seen, unit[0], unit[1]), unit[1], seg
        colors = [self._texture(texture, dressed) for texture in textures]
        self.avatar.initialise_colors(*colors)
        if self.avatar.light is not None:
            self._initialise_light(subject)

    def see_frames(self, subjects: Sequence[Subject], frames: FrameDataset) -> None:
        """Reads where simulated clothes hang, and which pixels of photographs show own colours."""
        (subject,) = subjects
        self.solved.read(subject)
        split = [name.rsplit("/", 2)[-2:] for name in frames.names]
        found = [subject.surface_offset(folder, int(number)) for folder, number in split]
        simulated = [offset[0].max() for offset in found if offset is not None]
        if simulated and max(simulated) >= len(self.avatar.template.rest_vertices):
            log.warning("the clips' simulated clothes are not looked at: set avatar.skirt=true")
        elif simulated:
            hanging = [
                None if each is None else (torch.from_numpy(each[0]), torch.from_numpy(each[1]))
                for each in found
            ]
            self.surface = SurfaceTruth(self.avatar.template, hanging)

    def _initialise_light(self, subject: Subject) -> None:
        """Estimates the light from the photograph and its albedo, and divides the colours by it.

        Raises:
            UserError: there is no albedo, from which a light that is not learnt has to come.
        """
        assert self.avatar.light is not None
        number = subject.frame_ids(CAPTURED)[0]
        frame = subject.frame(CAPTURED, number)
        if frame.albedo is None:
            if not self.avatar.light.learnt:
                raise UserError(
                    f"{subject.root}: has no albedo that avatar.light=photo could read the light "
                    "from; take avatar.light=sh"
                )
            return
        inside = frame.mask if frame.normal_mask is None else frame.mask & frame.normal_mask
        colours, own = (
            torch.from_numpy(x[inside]).float().mean(1) for x in (frame.image, frame.albedo)
        )
        rotation = frame.camera.cam_from_world[:3, :3]
        normals = torch.from_numpy(frame.normal[inside]) * torch.tensor([1.0, -1.0, -1.0])
        self.avatar.light.fit(normals @ rotation, colours / own.clamp_min(1))
        pose = matrix_pose(self.body, subject.pose(CAPTURED, number, self.body.num_expression))
        self.avatar.remove_light(pose, View(camera_rotation=rotation))

    def _texture(
        self, texture: Float[Tensor, "h w 3"], dressed: Float[Tensor, "p 3"] | None = None
    ) -> Float[Tensor, "n 3"]:
        template, body = self.avatar.template, self.avatar.template.body
        colors = texture_colors(
            texture, body.skin_uv, body.uv_faces, body.faces, template.subdivision
        )
        # A garment begins with the colours of the skin that carried or carries it, which are its
        # own where photographs showed it in front of that.
        return colors[template.once("shown by skin", lambda: self._shown_by(dressed))]

    def _shown_by(self, dressed: Float[Tensor, "p 3"] | None) -> Int[Tensor, "n"]:
        """For each Gaussian the one whose texel it begins with: its own, or the nearest skin's.

        dressed: The body's own vertices in the rest pose, with the skirt that the garment was made
            of; None where a garment was carved, which lies over the skin that is there.
        """
        template = self.avatar.template
        rows, garment = torch.arange(template.num_gaussians), template.garment.cpu()
        if not garment.any():
            return rows
        points = template.vertices
        if dressed is not None:
            worn = template.rest_vertices.clone()
            worn[: len(dressed)] = dressed.to(worn)
            places = template.subdivision.features(worn)
            normals = vertex_normals(places, template.faces, template.fans)
            points = torch.cat((places, ALIKE_M * normals), -1)
        points = points.cpu()
        _, nearest = cKDTree(points[~garment]).query(points[garment])
        rows[garment] = rows[~garment][torch.from_numpy(nearest)]
        return rows

    def finish(self, frames: TrainedFrames) -> None:
        """Solves for the colours of what photographs and the best frames show, as asked for."""
        self.solved(self.avatar, self.renderer, self.assets[-1], frames)

    def observe(self, frame: Frame, pose: Pose, views: Views, turn: int = 0) -> PersonaStep:
        """Poses the avatar for one frame and renders the channels that the losses need."""
        captured = frame.role[0] == CAPTURED
        camera = frame.camera[0].local()
        posed = self.avatar(pose, frame.view)
        cameras = {}
        if frame.has_patch[0]:
            cameras["patch"] = camera.crop(frame.patch_box_px[0], *frame.patch.shape[-2:])
        renders: dict[str, Render] = {}
        boundary: dict[str, Tensor] = {}
        views = {v: c for v, c in views.items() if v != "patch" or frame.has_patch[0]}
        with branches() as branch:
            for view, channels in views.items():
                wanted = channels - NOT_CHANNELS
                if captured and "boundary" in channels:
                    wanted |= {"position"}
                at = cameras.get(view, camera)
                with branch():
                    renders[view] = self.views.render(self.avatar, posed, view, at, wanted)
            with branch():
                masks = self._masks(posed, camera, cameras, views)
        with branches() as branch:
            for view, render in renders.items():
                if "position" in render.images:
                    with branch():
                        boundary[view] = self._boundary(frame, view, render, masks)
        return PersonaStep(
            frame, self.avatar, posed, renders, masks, boundary, surface=self.surface
        )

    def _masks(
        self,
        posed: PosedAvatar,
        camera: Camera,
        cameras: Mapping[str, Camera],
        views: Mapping[str, frozenset[str]],
    ) -> dict[str, Tensor]:
        """Region masks of the body mesh for the views whose losses need them."""
        asked = {view for view, channels in views.items() if channels & {"mesh", "boundary"}}
        masks: dict[str, Tensor] = {}
        if not asked:
            return masks
        vertices = self.body_masks(self.avatar.template, posed)
        if asked & set(self.assets):
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
            keep_out, side = masks["face"], self._boundary_px(frame)
        position = render.images["position"].detach()
        return occlusion_boundary(position, keep_out[None], max(1, round(side)))

    def _boundary_px(self, frame: Frame) -> int:
        return max(1, round(self.boundary_side * frame.person_px[0]))

    def frame_kind(self, frame: Frame) -> Hashable:
        """Captured frames differ in the width of their boundary, which the host computes."""
        return self._boundary_px(frame) | 1 if frame.role[0] == CAPTURED else None

    def clip(self, poses: Pose, asset: str | None = None, view: View = PLAIN_VIEW) -> Draw:
        """As ``Method.clip``; what does not depend on the pose is computed once."""
        driver = PoseDriver(self.avatar, asset or self.assets[-1])
        return ClipDrawer(driver, self.renderer, poses, view)
