"""Weights in blocks of 32: from the bytes of GGUF to fp32, and to the 8 and 4 bits that ONNX Runtime computes
fast.

ONNX Runtime's MatMulNBits and GatherBlockQuantized mean

    value = scale × (code − zero point)

with an integer zero point. On CPUs only this is fast: 8 bits at accuracy level 4, and 4 bits with integer
zero points. The lossless form of Q4_1 (float zero points) makes it unpack the whole matrix in each run, 20 to 80
times slower.
"""

from dataclasses import dataclass

import numpy as np

from convert.gguf import RawTensor

BLOCK_ELEMENTS = 32
SYMMETRIC_ZERO_POINT = 128  # what ONNX Runtime takes for 8 bits when no zero points are given


@dataclass(frozen=True)
class Blocks:
    """A matrix as GGUF holds it: value = scale × code + minimum."""

    codes: np.ndarray
    """uint8 [rows, blocks, 32]."""
    scales: np.ndarray
    """float32 [rows, blocks]."""
    minimums: np.ndarray
    """float32 [rows, blocks]."""
    bits: int
    """4: codes 0 to 15 with any minimum. 8: minimum is always −128 × scale."""


@dataclass(frozen=True)
class Quantized:
    """A matrix as ONNX Runtime takes it: value = scale × (code − zero point)."""

    codes: np.ndarray
    """uint8 [rows, blocks, 32] for 8 bits; [rows, blocks, 16] for 4, low half first."""
    scales: np.ndarray
    """float32 [rows, blocks]."""
    zero_points: np.ndarray | None
    """uint8 [rows, blocks], two to a byte for 4 bits; None: 128."""
    bits: int


def read_weights(tensor: RawTensor) -> np.ndarray | Blocks:
    """The numbers of a stored tensor: float32 of its shape for F32 and F16, else its blocks."""
    kind = tensor.encoding.name
    if kind in ("F32", "F16"):
        return (
            tensor.data.view(np.float32 if kind == "F32" else np.float16)
            .astype(np.float32)
            .reshape(tensor.shape)
        )
    stored = tensor.data.reshape(tensor.data.shape[0], -1, tensor.encoding.block_bytes)
    scales = _half_floats(stored[..., 0:2])
    if kind == "Q8_0":
        # Signed codes, moved up to the unsigned ones of ONNX Runtime: −128 becomes 0.
        return Blocks(stored[..., 2:] ^ 0x80, scales, -SYMMETRIC_ZERO_POINT * scales, bits=8)
    if kind == "Q4_0":
        return Blocks(_unpack_halves(stored[..., 2:]), scales, -8 * scales, bits=4)
    return Blocks(_unpack_halves(stored[..., 4:]), scales, _half_floats(stored[..., 2:4]), bits=4)


def to_float(weights: np.ndarray | Blocks) -> np.ndarray:
    """float32; exact, since codes of 8 bits times half-precision scales fit float32."""
    if isinstance(weights, np.ndarray):
        return weights
    values = weights.codes * weights.scales[..., None]
    values += weights.minimums[..., None]
    return values.reshape(len(values), -1)


def to_eight_bits(weights: np.ndarray | Blocks) -> Quantized:
    """8 bits: exact for Q8_0, nearly so for 4-bit blocks, rounded with zero point 128 for floats."""
    if isinstance(weights, np.ndarray):
        weights = _symmetric_blocks(weights)
    if weights.bits == 8:
        return Quantized(weights.codes, weights.scales, None, bits=8)
    return _four_bits_held_in_eight(weights)


def _four_bits_held_in_eight(weights: Blocks) -> Quantized:
    """Finer steps make room for the zero point: value = scale/k × (k·code − zero point), k from 8 to 17.

    The codes stay exact. Only the zero point is rounded, to 1/k of a step; each block takes the k that rounds
    least.
    """
    ideal = _ideal_zero_points(weights)
    smallest_error = np.full(ideal.shape, np.inf, np.float32)
    factors = np.full(ideal.shape, 16, np.uint8)
    for factor in range(17, 7, -1):
        error = np.abs(np.clip(np.rint(ideal * factor), 0, 255) - ideal * factor) / factor
        better = error < smallest_error
        smallest_error[better] = error[better]
        factors[better] = factor
    codes = weights.codes * factors[..., None]
    scales = (weights.scales / factors).astype(np.float32)
    zero_points = np.clip(np.rint(ideal * factors), 0, 255).astype(np.uint8)
    constant = weights.scales == 0  # such a block holds its minimum 32 times
    codes[constant], zero_points[constant] = 1, 0
    return Quantized(codes, np.where(constant, weights.minimums, scales), zero_points, bits=8)


def to_four_bits(weights: np.ndarray | Blocks) -> Quantized:
    """4 bits with an integer zero point: of some zero points and scales, the least squared error of each
    block.

    Costs quality (Q4_1's minimum is not a multiple of its scale): for small models prefer 8 bits.
    """
    values = to_float(weights)
    values = values.reshape(len(values), -1, BLOCK_ELEMENTS)
    if isinstance(weights, Blocks) and weights.bits == 4:
        start = weights
    else:
        lowest, highest = np.minimum(values.min(-1), 0), np.maximum(values.max(-1), 0)
        start = Blocks(np.empty(0, np.uint8), (highest - lowest) / 15, lowest, bits=4)
    ideal = _ideal_zero_points(start)
    best_error = np.full(ideal.shape, np.inf, np.float32)
    best_scales, best_zeros = np.zeros_like(best_error), np.zeros(ideal.shape, np.uint8)
    best_codes = np.zeros(values.shape, np.uint8)
    for zeros in (np.clip(np.floor(ideal), 0, 15), np.clip(np.ceil(ideal), 0, 15)):
        for stretch in (0.94, 1.0, 1.06):
            steps = np.maximum(np.abs(start.scales) * stretch, 1e-12)
            codes = np.clip(np.rint(values / steps[..., None]) + zeros[..., None], 0, 15)
            centred = codes - zeros[..., None]
            # With the codes fixed, the scale of least squares has this closed form.
            scales = (values * centred).sum(-1) / np.maximum((centred * centred).sum(-1), 1e-12)
            error = ((values - scales[..., None] * centred) ** 2).sum(-1)
            better = error < best_error
            best_error[better], best_scales[better] = error[better], scales[better]
            best_zeros[better], best_codes[better] = zeros[better], codes[better]
    return Quantized(_pack_pairs(best_codes), best_scales, _pack_pairs(best_zeros), bits=4)


def to_eight_bit_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, columns] as int8 codes and one float32 scale a row: value = scale × code."""
    scales = (np.abs(values).max(-1) / 127).astype(np.float32)
    codes = np.rint(values / np.where(scales == 0, 1, scales)[:, None])
    return codes.astype(np.int8), scales


def _symmetric_blocks(values: np.ndarray) -> Blocks:
    rows, columns = values.shape
    if columns % BLOCK_ELEMENTS:
        raise ValueError(
            f"rows of {columns} numbers cannot be quantised in blocks of {BLOCK_ELEMENTS}: use fp32"
        )
    values = values.reshape(rows, -1, BLOCK_ELEMENTS)
    scales = np.abs(values).max(-1) / 127
    codes = np.rint(values / np.where(scales == 0, 1, scales)[..., None]) + SYMMETRIC_ZERO_POINT
    return Blocks(codes.astype(np.uint8), scales, -SYMMETRIC_ZERO_POINT * scales, bits=8)


def _ideal_zero_points(weights: Blocks) -> np.ndarray:
    """The real numbers that zero points round: −minimum / scale, 0 where the scale is 0."""
    return np.divide(
        -weights.minimums, weights.scales, out=np.zeros_like(weights.scales), where=weights.scales != 0
    )


def _half_floats(pairs_of_bytes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pairs_of_bytes).view(np.float16).astype(np.float32)[..., 0]


def _unpack_halves(packed: np.ndarray) -> np.ndarray:
    """GGUF's order: the low halves of the 16 bytes are codes 0 to 15, the high halves 16 to 31."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _pack_pairs(codes: np.ndarray) -> np.ndarray:
    """ONNX Runtime's order: neighbours share a byte, the first in the low half; an odd rest is filled with 0."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), codes.dtype)], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << 4
