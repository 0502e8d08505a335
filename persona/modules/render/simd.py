"""SIMD over the channels of one pixel, written out because numba does not vectorise it.

A loop of eight constant steps is unrolled before the vectoriser sees it. A loop of unknown length
checks each time whether its arrays overlap, which costs more than the work itself.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 8
"""Channels per vector; rows must be a multiple of it."""


def _lanes_at(context, builder, array_type, array, row, column):
    """Pointer to LANES entries of a C-contiguous (n, c) array."""
    view = context.make_array(array_type)(context, builder, array)
    width = builder.extract_value(view.shape, 1)
    offset = builder.add(builder.mul(row, width), column)
    scalar = context.get_value_type(array_type.dtype)
    pointer = builder.gep(view.data, [offset])
    return builder.bitcast(pointer, ir.VectorType(scalar, LANES).as_pointer()), scalar


def _load(builder, pointer, scalar):
    """Unaligned load."""
    load = builder.load(pointer)
    load.align = _bytes(scalar)
    return load


def _bytes(scalar):
    return 4 if isinstance(scalar, ir.FloatType) else 8


@intrinsic
def add_scaled_lanes(typing, out, i, values, j, column, weight):
    """out[i, column : column + LANES] += weight * values[j, column : column + LANES]."""
    signature = types.void(out, types.intp, values, types.intp, types.intp, out.dtype)

    def generate(context, builder, signature, args):
        out, i, values, j, column, weight = args
        target, scalar = _lanes_at(context, builder, signature.args[0], out, i, column)
        source, _ = _lanes_at(context, builder, signature.args[2], values, j, column)
        vector = ir.VectorType(scalar, LANES)
        first = builder.insert_element(
            ir.Constant(vector, ir.Undefined), weight, ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        spread = builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)
        fused = ("contract",)
        product = builder.fmul(spread, _load(builder, source, scalar), flags=fused)
        total = builder.fadd(product, _load(builder, target, scalar), flags=fused)
        builder.store(total, target).align = _bytes(scalar)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def inner_lanes(typing, a, i, b, j, column):
    """Sum of a[i, k] * b[j, k] over LANES columns k from ``column`` on."""
    signature = a.dtype(a, types.intp, b, types.intp, types.intp)

    def generate(context, builder, signature, args):
        a, i, b, j, column = args
        left, scalar = _lanes_at(context, builder, signature.args[0], a, i, column)
        right, _ = _lanes_at(context, builder, signature.args[2], b, j, column)
        vector = ir.VectorType(scalar, LANES)
        product = builder.fmul(_load(builder, left, scalar), _load(builder, right, scalar))
        name = f"llvm.vector.reduce.fadd.v{LANES}f{8 * _bytes(scalar)}"
        kind = ir.FunctionType(scalar, [scalar, vector])
        reduce = builder.module.declare_intrinsic(name, fnty=kind)
        return builder.call(reduce, [ir.Constant(scalar, -0.0), product], fastmath=("reassoc",))

    return signature, generate
