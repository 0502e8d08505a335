import torch

from persona.modules.avatar.offset_network import OffsetNetwork
from persona.modules.avatar.triplane import Triplane


def network() -> OffsetNetwork:
    torch.manual_seed(0)
    return OffsetNetwork(triplane=Triplane(channels=4, resolution=16), width=16)


def test_triplane_reads_the_planes_bilinearly():
    triplane = Triplane(channels=1, resolution=2, extent_m=2.0)
    with torch.no_grad():
        triplane.planes[0, 0] = torch.tensor([[0.0, 1.0], [2.0, 3.0]])  # Rows are y, columns x.
    # Texel centres of a 2 x 2 plane over [-1, 1] are at +-0.5.
    points = torch.tensor([[-0.5, -0.5, 0.3], [0.5, -0.5, 0.3], [0.0, 0.0, 0.3], [0.5, 9.0, 0.3]])
    torch.testing.assert_close(triplane(points)[:, 0], torch.tensor([0.0, 1.0, 1.5, 3.0]))
    assert (triplane(points)[:, 1:] == 0).all()


def test_far_joints_do_not_move_a_point():
    net, points = network(), torch.rand(5, 3) - 0.5
    ring = torch.zeros(5, 21)
    ring[0, 3] = 1
    code = torch.randn(21, 6)
    other = code.clone()
    other[3] += 1
    moved = (net(points, ring, other) - net(points, ring, code)).abs().sum(1)
    assert moved[0] > 0 and (moved[1:] == 0).all()


def test_offsets_are_small_and_scaled_by_the_divisor():
    net, points = network(), torch.rand(5, 3) - 0.5
    args = (points, torch.ones(5, 21), torch.randn(21, 6))
    small = net(*args)
    net.divisor = 1.0
    torch.testing.assert_close(net(*args), small * 100)


def test_gradient_reaches_planes_and_layers():
    net = network()
    net(torch.rand(5, 3), torch.ones(5, 21), torch.randn(21, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.hidden.parameters())
    assert net.triplane.planes.grad.abs().sum() > 0


def test_equals_the_plain_network():
    """Equals a network with concatenated inputs and torch's own GroupNorm."""
    net, points = network(), torch.rand(7, 3) - 0.5
    torch.nn.init.normal_(net.triplane.planes)
    ring, code = (torch.rand(7, 21) > 0.5).float(), torch.randn(21, 6)
    hidden = torch.cat([net.triplane(points), (ring[:, :, None] * code).flatten(1)], -1)
    for linear, norm in zip([net.first, *net.hidden], net.norms, strict=True):
        hidden = norm(linear(hidden)).relu()
    torch.testing.assert_close(net(points, ring, code), net.head(hidden) / 100)
