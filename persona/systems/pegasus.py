"""PEGASUS: a head of shaded points, with a learnt code for each edit of the person."""

from persona.systems.head import HeadMethod


class PegasusMethod(HeadMethod):
    """Canonical points in a space that all edits share.

    Source: PEGASUS, CVPR 2024, arXiv:2402.10636. Points are drawn as Gaussians; see
    ``SurfaceLook``.
    """

    many = True
