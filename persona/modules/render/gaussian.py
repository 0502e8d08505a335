"""One interface to every Gaussian rasteriser.

The image model is 3D Gaussian splatting (Kerbl et al. 2023) with the 2D filter of Mip-Splatting
(Yu et al. 2024): each projected covariance grows by ``eps2d`` and the opacity is scaled by
sqrt(det / det grown), which keeps the energy of a Gaussian smaller than a pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from persona.errors import UserError
from persona.types import Camera, Channel, Gaussians, Render


class GaussianRenderer(nn.Module, ABC):
    """Composites any number of channels with one projection and one depth sort.

    Backends agree in values and gradients. The camera and its intrinsics receive no gradient.
    A Gaussian whose position, shape or opacity is not finite is not drawn.

    Args:
        near_m: Gaussians nearer than this camera depth are not drawn, metres.
        far_m: Gaussians farther than this are not drawn, metres.
        eps2d: Variance of the 2D filter, square pixels.
    """

    name: ClassVar[str]
    device_type: ClassVar[str]

    def __init__(self, near_m: float = 0.01, far_m: float = 100.0, eps2d: float = 0.1):
        super().__init__()
        self.near_m, self.far_m, self.eps2d = near_m, far_m, eps2d

    def forward(
        self, gaussians: Gaussians, camera: Camera, channels: Mapping[str, Channel]
    ) -> Render:
        """Renders one unbatched camera.

        Args:
            gaussians: Gaussians in the camera's world, opacities in [0, 1].
            camera: One camera, without batch.
            channels: Per-Gaussian values by name. With ``geometry`` False, only the values get a
                gradient, not the Gaussians.

        Returns:
            One image per channel, premultiplied by the alpha (black background), and the alpha.

        Raises:
            UserError: The tensors are not on a device that this backend serves.
        """
        device = gaussians.means.device
        if device.type != self.device_type:
            raise UserError(
                f"the {self.name} renderer needs {self.device_type} tensors and got {device}: "
                "choose renderer auto, or move the model"
            )
        names = sorted(channels, key=lambda name: not channels[name].geometry)
        moving = [channels[name].values for name in names if channels[name].geometry]
        still = [channels[name].values for name in names if not channels[name].geometry]
        alpha, images = self._rasterize(gaussians, camera, moving, still)
        rendered = dict(zip(names, images, strict=True))
        return Render({name: rendered[name] for name in channels}, alpha)

    def many(
        self, gaussians: Sequence[Gaussians], camera: Camera, values: Sequence[Float[Tensor, "n c"]]
    ) -> tuple[Float[Tensor, "k c h w"], Float[Tensor, "k 1 h w"]]:
        """Renders several scenes; the Gaussians get gradients from their images.

        Args:
            gaussians: Gaussians of each scene, the same number in all.
            camera: A batch with one camera for each scene.
            values: Values of each scene's Gaussians.

        Returns:
            Images premultiplied by the alpha, and the alphas.
        """
        renders = [
            self(scene, camera[index], {"values": Channel(values[index])})
            for index, scene in enumerate(gaussians)
        ]
        images = torch.stack([render.images["values"] for render in renders])
        return images, torch.stack([render.alpha for render in renders])

    @contextmanager
    def fixed_slots(self) -> Iterator[None]:
        """A context in which passes never wait for the device, so that CUDA graphs can capture it.

        A backend may then run out of room and leave out the farthest Gaussians: see ``grow_slots``.
        """
        yield

    def grow_slots(self) -> bool:
        """Whether passes inside ``fixed_slots`` ran out of room since the last call.

        If so, makes more room for later passes; graphs of such passes must be captured again.
        """
        return False

    @abstractmethod
    def _rasterize(
        self, gaussians: Gaussians, camera: Camera, moving: list[Tensor], still: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Alpha (1, h, w) and one image (c, h, w) per tensor of values (n, c).

        Args:
            gaussians: The Gaussians to draw.
            camera: One camera, without batch.
            moving: Values whose images give the geometry a gradient, as the alpha does.
            still: Values whose images give it none.
        """
