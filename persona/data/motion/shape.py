"""Which joint is which by the skeleton's shape alone, for rigs whose names say nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.skeleton import SkeletonClip

TWIG = 0.17
"""Side branches shorter than this share of the longest way from the root down are fingers, toes,
faces or twist bones: they do not count."""
ALIKE = 0.8
"""Lengths whose ratio is above this are about equal: those of two legs, or two arms."""
LIMB = ("hip", "knee", "ankle", "foot"), ("shoulder", "elbow", "wrist")


def match_shape(clip: SkeletonClip) -> dict[str, int]:
    """SMPL-X names of the body to joints; empty where the skeleton is not a human's.

    Without twigs a human has five ends. Three of them lie above the chest, the lowest such joint;
    of these the two of like length are hands. The others are feet, and toes tell left from right.
    """
    tree = _Tree(clip)
    if len(tree.ends) != 5:
        return {}
    three = [n for n, ends in tree.above.items() if len(ends) == 3]
    if not three:
        return {}
    chest = max(three, key=lambda n: len(tree.line(n)))
    hands = max(itertools.combinations(sorted(tree.above[chest]), 2), key=tree.likeness)
    (head,) = tree.above[chest] - set(hands)
    feet = tuple(sorted(set(tree.ends) - tree.above[chest]))
    pelvis = next(n for n in tree.line(feet[0]) if n in tree.line(feet[1]))
    legs = [tree.limb(tree.chain(pelvis, foot), LIMB[0]) for foot in feet]
    arms = [tree.limb(tree.chain(chest, hand), LIMB[1]) for hand in hands]
    alike = min(tree.likeness(feet), tree.likeness(hands)) > ALIKE
    if not alike or not all(legs + arms) or any("foot" not in leg for leg in legs):
        return {}
    return _sided(clip, legs, arms) | _trunk(tree, pelvis, chest, head)


class _Tree:
    """A skeleton without its twigs."""

    def __init__(self, clip: SkeletonClip) -> None:
        self.parents = clip.parents
        self.length = clip.offsets.norm(dim=-1).tolist()
        self.length[0] = 0.0
        down = [0.0] * len(self.parents)  # The longest way from each joint.
        for n in range(len(down) - 1, 0, -1):
            parent = self.parents[n]
            if parent >= 0:
                down[parent] = max(down[parent], down[n] + self.length[n])
        least = TWIG * max(down)
        kept = {0}
        children: dict[int, list[int]] = {n: [] for n in range(len(down))}
        for n, parent in enumerate(self.parents):
            if parent >= 0:
                children[parent].append(n)
        for n in range(len(down)):
            if n in kept and children[n]:
                ways = {child: down[child] + self.length[child] for child in children[n]}
                longest = max(ways, key=ways.__getitem__)
                kept |= {child for child, way in ways.items() if way > least or child == longest}
        inner = {self.parents[n] for n in kept}
        self.ends = [n for n in kept if n not in inner]
        self.above = {n: {end for end in self.ends if n in self.line(end)} for n in kept}

    def line(self, joint: int) -> list[int]:
        """A joint and all on the way to the root."""
        line = [joint]
        while self.parents[line[-1]] >= 0:
            line.append(self.parents[line[-1]])
        return line

    def chain(self, top: int, end: int) -> list[int]:
        """The joints from beneath ``top`` to ``end``."""
        line = self.line(end)
        return line[: line.index(top)][::-1]

    def likeness(self, ends: Sequence[int]) -> float:
        """Likeness of two branches where they part: the shorter's length by the longer's."""
        first, second = (self.line(end) for end in ends)
        ways = [
            sum(self.length[n] for n in line if n not in other)
            for line, other in ((first, second), (second, first))
        ]
        return min(ways) / max(max(ways), 1e-12)

    def limb(self, chain: list[int], names: tuple[str, ...]) -> dict[str, int]:
        """Names along a chain: upper and lower limb are its longest two bones in a row.

        Of about equally long ones the last: a clavicle may be as long as a forearm, a hand is not.
        Empty where the chain is too short; ``collar`` is the joint before an arm.
        """
        pairs = [self.length[a] + self.length[b] for a, b in itertools.pairwise(chain[1:])]
        if not pairs:
            return {}
        start = max(i for i, pair in enumerate(pairs) if pair >= ALIKE * max(pairs))
        found = dict(zip(names, chain[start:], strict=False))
        if names is LIMB[1] and start:
            found["collar"] = chain[start - 1]
        return found


def _trunk(tree: _Tree, pelvis: int, chest: int, head: int) -> dict[str, int]:
    """Spine, neck and head."""
    line = tree.line(chest)
    # A rig's pelvis may hang beside its spine.
    parted = next(i for i, n in enumerate(line) if n in tree.line(pelvis))
    spine = line[:parted][::-1]
    found = {"pelvis": pelvis}
    if spine:
        found |= {"spine1": spine[0]}
    if len(spine) > 1:
        found |= {"spine3": spine[-1]}
    if len(spine) > 2:
        found |= {"spine2": spine[(len(spine) - 1) // 2]}
    neck = tree.chain(chest, head)
    # An end site above the head is no joint.
    top = neck[-2] if len(neck) > 2 else neck[-1]
    return found | ({"neck": neck[0]} if len(neck) > 1 else {}) | {"head": top}


def _sided(
    clip: SkeletonClip, legs: list[dict[str, int]], arms: list[dict[str, int]]
) -> dict[str, int]:
    """Limbs with their sides: left is across from up to where the toes point."""
    at: Float[Tensor, "j 3"] = clip.rest_positions()
    up = sum(at[leg["hip"]] - at[leg["ankle"]] for leg in legs)
    ahead = sum(at[leg["foot"]] - at[leg["ankle"]] for leg in legs)
    left = torch.linalg.cross(up, ahead)
    found: dict[str, int] = {}
    for pair, key in ((legs, "hip"), (arms, "shoulder")):
        ordered = sorted(pair, key=lambda limb: -float(at[limb[key]] @ left))
        for side, limb in zip(("left", "right"), ordered, strict=True):
            found |= {f"{side}_{name}": joint for name, joint in limb.items()}
    return found
