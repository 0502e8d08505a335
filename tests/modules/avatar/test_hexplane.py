"""HexPlanes equal a slow twin, and do not depend on time at first."""

import torch

from persona.modules.avatar.hexplane import PLANES, HexPlane


def bilinear(plane, x, y):
    """Interpolates a plane (c, h, w) at node coordinates."""
    low = [min(int(v), n - 2) for v, n in ((x, plane.shape[2]), (y, plane.shape[1]))]
    a, b = x - low[0], y - low[1]
    corner = plane[:, low[1] : low[1] + 2, low[0] : low[0] + 2]
    upper, lower = (row[:, 0] * (1 - a) + row[:, 1] * a for row in corner.unbind(1))
    return upper * (1 - b) + lower * b


def test_is_the_product_of_six_look_ups():
    torch.manual_seed(0)
    plane = HexPlane(channels=2, resolution=5, times=3, extent_m=2.0)
    with torch.no_grad():
        plane.time.uniform_(0.5, 2.0)
    point = torch.tensor([0.3, -0.55, 0.9])
    nodes = ((point + 1) * 2).tolist()
    expected = []
    for rows in (plane.time[1], plane.time.mean(0)):
        value = torch.ones(2)
        for number, (a, b) in enumerate(PLANES):
            value = value * bilinear(plane.space[number], nodes[a], nodes[b])
        for axis in range(3):
            line = rows[axis][:, None].expand(-1, 2, -1)
            value = value * bilinear(line, nodes[axis], 0.0)
        expected.append(value)
    found = plane(point[None], torch.tensor(1))
    torch.testing.assert_close(found[:, 0], torch.stack(expected))


def test_at_first_all_times_are_alike_and_border_values_reach_outside():
    plane = HexPlane(channels=3, resolution=4, times=5, extent_m=1.0)
    points = torch.tensor([[0.5, 0.0, 0.1], [9.0, 0.0, 0.1]])
    found = plane(points, torch.tensor(4))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[:, 0], found[:, 1])
