"""LHM's published networks: their sizes, and their weights read strictly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.errors import UserError
from persona.modules.diffusion.weights import WEIGHTS
from persona.modules.lhm.network import LhmNetwork
from persona.modules.lhm.resize import sapiens_input
from persona.modules.lhm.transformer import BodyHeadTransformer
from persona.modules.lhm.vit import FusedEncoder, VisionTransformer
from persona.modules.strict_state import load_strictly, read_state

_DIM, _HEADS, _HIDDEN = 1024, 16, 512
_DINO_LAYERS = (4, 11, 17, 23)
_SAPIENS_DIM, _SAPIENS_SIDE = 1536, 64
HEAD_PX = 448
CHECKPOINT, SAPIENS = "model.safetensors", "sapiens_1b_epoch_173_torchscript.pt2"
BODY_PREFIX = "renderer.smplx_model."
"""Prefix of a checkpoint's copy of SMPL-X, which is not read: the avatar's own body is used."""
_VERTICES, _JOINTS, _FACES = 10475, 55, 20908


def published_network(layers: int) -> LhmNetwork:
    """LHM with so many layers of the transformer: 2 (MINI), 5 (500M), 15 (1B)."""
    dino = VisionTransformer(dim=_DIM, depth=24, heads=16)
    return LhmNetwork(
        encoder=FusedEncoder(dino, _DINO_LAYERS, _DIM),
        transformer=BodyHeadTransformer(
            dim=_DIM, heads=_HEADS, layers=layers, context_dim=_SAPIENS_DIM,
            body_tokens=_SAPIENS_SIDE**2,
        ),
        dim=_DIM, context_dim=_SAPIENS_DIM, hidden=_HIDDEN,
    )  # fmt: skip


def body_shapes(points: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what a checkpoint holds of SMPL-X, by name after ``BODY_PREFIX``."""
    flags = ("rhand", "lhand", "face", "face_expr", "lower_body", "upper_body", "cavity")
    layer = {
        "shapedirs": (_VERTICES, 3, 10), "faces_tensor": (_FACES, 3), "v_template": (_VERTICES, 3),
        "J_regressor": (_JOINTS, _VERTICES), "posedirs": (486, 3 * _VERTICES),
        "parents": (_JOINTS,), "lbs_weights": (_VERTICES, _JOINTS), "left_hand_mean": (45,),
        "right_hand_mean": (45,), "pose_mean": (3 * _JOINTS,), "lmk_faces_idx": (51,),
        "lmk_bary_coords": (51, 3), "dynamic_lmk_faces_idx": (79, 17),
        "dynamic_lmk_bary_coords": (79, 17, 3), "neck_kin_chain": (5,),
        "expr_dirs": (_VERTICES, 3, 100), "vertex_joint_selector.extra_joints_idxs": (21,),
    }  # fmt: skip
    return {
        "skinning_weight": (points, _JOINTS), "pose_dirs": (486, 3 * points),
        "expr_dirs": (points, 3, 100), "shape_dirs": (points, 3, 10),
        "is_constrain_body": (points,), **{f"is_{flag}": (points,) for flag in flags},
        "voxel_ws": (_JOINTS, 96, 192, 192), "voxel_bbox": (3, 2),
        **{f"smplx_layer.{name}": shape for name, shape in layer.items()},
    }  # fmt: skip


def load_published(name: str, layers: int, points: int, folder: str | Path | None) -> LhmNetwork:
    """A published network with its weights, in evaluation mode.

    Args:
        name: In the table of weights, such as ``lhm_500m``.
        layers: Layers of the transformer.
        points: Query points of the checkpoint.
        folder: That holds the weights.

    Raises:
        UserError: weights are missing, or those of another size.
    """
    path = WEIGHTS[name].require(folder, "model.weights") / CHECKPOINT
    state = read_state(path)
    for inner, shape in body_shapes(points).items():
        held = state.pop(BODY_PREFIX + inner, None)
        if held is None or tuple(held.shape) != shape:
            found = "missing" if held is None else f"{list(held.shape)}"
            raise UserError(
                f"{path}: {BODY_PREFIX}{inner} is {found}, expected {list(shape)}; these are"
                f" another version's weights than {name}'s"
            )
    with torch.device("meta"):
        network = published_network(layers)
    load_strictly(network, state, str(path))
    return network.eval().requires_grad_(False)


class SapiensTokens(nn.Module):
    """Tokens of the body's image by Sapiens-1B, which stays as it is.

    Source: Khirodkar et al. 2024, arXiv:2408.12569.

    Args:
        network: Image of 1024 x 1024 pixels to features at every 16th.
    """

    def __init__(self, network: Callable[[Tensor], Tensor | tuple[Tensor, ...]]):
        super().__init__()
        self.network = network

    @classmethod
    def load(cls, path: Path) -> SapiensTokens:
        """From the published TorchScript file."""
        try:
            return cls(torch.jit.load(str(path), map_location="cpu").eval())
        except RuntimeError as error:
            raise UserError(f"{path} is not a whole TorchScript file: fetch it again") from error

    @classmethod
    def random(cls) -> SapiensTokens:
        """A network of the same size with random weights, to measure time and memory."""
        side = _SAPIENS_SIDE
        model = VisionTransformer(
            dim=_SAPIENS_DIM, depth=40, heads=24, patch_px=16, table=(side, side), registers=0
        )
        return cls(_LastLayer(model).eval())

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b t d"]:
        """image: the person on white, in [0, 1]."""
        features = self.network(sapiens_input(image))
        features = features if isinstance(features, Tensor) else features[0]
        expected = (len(image), _SAPIENS_DIM, _SAPIENS_SIDE, _SAPIENS_SIDE)
        if tuple(features.shape) != expected:
            raise UserError(
                f"{SAPIENS} gives {list(features.shape)}, expected {list(expected)}: fetch it again"
            )
        return features.flatten(2).transpose(1, 2)


class _LastLayer(nn.Module):
    """A vision transformer's last layer as an image."""

    def __init__(self, model: VisionTransformer):
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d r c"]:
        (tokens,) = self.model(image, (len(self.model.blocks) - 1,))
        return tokens.transpose(1, 2).unflatten(2, (_SAPIENS_SIDE, _SAPIENS_SIDE))
