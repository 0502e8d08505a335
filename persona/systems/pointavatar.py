"""PointAvatar: a head of shaded points of one person, of a video."""

from persona.systems.head import HeadMethod


class PointAvatarMethod(HeadMethod):
    """Canonical points with albedo and shading.

    Source: PointAvatar, CVPR 2023, arXiv:2212.08377. Points are drawn as Gaussians; see
    ``SurfaceLook``. Its second optimiser for poses, which starts late, is the pose table's group.
    """
