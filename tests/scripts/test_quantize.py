"""Quantised weights against a slow, obvious reference: one number at a time, as the operators' definition
says.
"""

import unittest

import checkout  # first: it makes scripts/ importable
import gguf_writer as writer
import numpy as np

from convert.gguf import ENCODINGS, RawTensor
from convert.quantize import Quantized, read_weights, to_eight_bits, to_float, to_four_bits

ROWS, COLUMNS = 12, 96


def stored(values: np.ndarray, encoding: int) -> RawTensor:
    """The tensor as the GGUF reader would hand it over."""
    data = np.frombuffer(writer.encode(values, encoding), np.uint8).reshape(len(values), -1)
    return RawTensor("test", values.shape, ENCODINGS[encoding], data)


def slow_gguf(tensor: RawTensor) -> np.ndarray:
    """The numbers of Q4_0, Q4_1 and Q8_0 blocks, from the format's definition."""
    size, rows = tensor.encoding.block_bytes, []
    for row in tensor.data:
        numbers = []
        for begin in range(0, len(row), size):
            block = row[begin : begin + size]
            scale = float(block[0:2].view(np.float16)[0])
            if tensor.encoding.name == "Q8_0":
                numbers += [scale * float(code) for code in block[2:].view(np.int8)]
                continue
            minimum = float(block[2:4].view(np.float16)[0]) if tensor.encoding.name == "Q4_1" else -8 * scale
            packed = block[4:] if tensor.encoding.name == "Q4_1" else block[2:]
            codes = [int(byte) % 16 for byte in packed] + [int(byte) // 16 for byte in packed]
            numbers += [scale * code + minimum for code in codes]
        rows.append(numbers)
    return np.array(rows)


def slow_onnx(quantized: Quantized) -> np.ndarray:
    """scale × (code − zero point), 4-bit codes and zero points two to a byte, first in the low half."""
    rows, blocks = quantized.scales.shape
    result = np.zeros((rows, blocks * 32))
    for row in range(rows):
        for column in range(blocks * 32):
            block, place = divmod(column, 32)
            if quantized.bits == 8:
                code = int(quantized.codes[row, block, place])
                zero = 128 if quantized.zero_points is None else int(quantized.zero_points[row, block])
            else:
                code = int(quantized.codes[row, block, place // 2]) >> 4 * (place % 2) & 15
                zero = int(quantized.zero_points[row, block // 2]) >> 4 * (block % 2) & 15
            result[row, column] = float(quantized.scales[row, block]) * (code - zero)
    return result


class QuantizeTest(unittest.TestCase):
    def setUp(self) -> None:
        random = np.random.default_rng(11)
        # Off-centre, so that zero points matter.
        self.values = (random.standard_normal((ROWS, COLUMNS)) * 0.1 + 0.03).astype(np.float32)

    def test_stored_blocks_are_read_exactly(self) -> None:
        for encoding in (writer.Q4_0, writer.Q4_1, writer.Q8_0):
            with self.subTest(ENCODINGS[encoding].name):
                tensor = stored(self.values, encoding)
                # Q4_1 adds scale × code and minimum: the sum may round once.
                np.testing.assert_allclose(
                    to_float(read_weights(tensor)), slow_gguf(tensor), rtol=0, atol=3e-8
                )

    def test_floats_are_read_exactly(self) -> None:
        np.testing.assert_array_equal(to_float(read_weights(stored(self.values, writer.F32))), self.values)
        np.testing.assert_array_equal(
            to_float(read_weights(stored(self.values, writer.F16))),
            self.values.astype(np.float16).astype(np.float32),
        )

    def test_eight_bits_hold_q8_and_q4_0_exactly(self) -> None:
        for encoding in (writer.Q8_0, writer.Q4_0):
            with self.subTest(ENCODINGS[encoding].name):
                tensor = stored(self.values, encoding)
                # The scale is divided by a factor in float32, which rounds in the eighth digit.
                np.testing.assert_allclose(
                    slow_onnx(to_eight_bits(read_weights(tensor))), slow_gguf(tensor), rtol=3e-7
                )

    def test_eight_bits_move_a_q4_1_block_by_less_than_a_thirtieth_of_its_step(self) -> None:
        tensor = stored(self.values, writer.Q4_1)
        quantized = to_eight_bits(read_weights(tensor))
        exact = slow_gguf(tensor).reshape(ROWS, -1, 32)
        error = np.abs(slow_onnx(quantized).reshape(exact.shape) - exact).max(-1)
        step = tensor.data.reshape(ROWS, -1, 20)[..., :2].copy().view(np.float16).astype(float)[..., 0]
        # Rounded to 1/k of a step with k up to 17, so at most 1/34 for the largest k; the best of ten k is
        # less.
        self.assertLess((error / step).max(), 1 / 30)
        self.assertLess((error / step).mean(), 1 / 150)

    def test_a_constant_block_keeps_its_value(self) -> None:
        values = np.full((2, 32), 0.25, np.float32)
        tensor = stored(np.ones((2, 32)), writer.Q8_0)
        constant = RawTensor(
            "constant",
            (2, 32),
            ENCODINGS[writer.Q4_1],
            np.tile(np.frombuffer(np.float16([0, 0.25]).tobytes() + b"\x5a" * 16, np.uint8), (2, 1)),
        )
        np.testing.assert_array_equal(to_float(read_weights(constant)), values)
        np.testing.assert_array_equal(slow_onnx(to_eight_bits(read_weights(constant))), values)
        np.testing.assert_allclose(slow_onnx(to_eight_bits(read_weights(tensor))), slow_gguf(tensor))

    def test_floats_in_eight_bits_are_off_by_half_a_step(self) -> None:
        error = np.abs(slow_onnx(to_eight_bits(self.values)) - self.values).reshape(ROWS, -1, 32).max(-1)
        step = np.abs(self.values).reshape(ROWS, -1, 32).max(-1) / 127
        self.assertTrue((error <= step * 0.501).all())
        zeros = np.zeros((2, 32), np.float32)
        np.testing.assert_array_equal(slow_onnx(to_eight_bits(zeros)), zeros)

    def test_four_bits_are_no_worse_than_plain_rounding(self) -> None:
        for encoding in (writer.F32, writer.Q4_1, writer.Q8_0):
            with self.subTest(ENCODINGS[encoding].name):
                weights = read_weights(stored(self.values, encoding))
                exact = to_float(weights).reshape(ROWS, -1, 32)
                found = slow_onnx(to_four_bits(weights)).reshape(exact.shape)
                lowest, highest = exact.min(-1, keepdims=True), exact.max(-1, keepdims=True)
                step = (highest - lowest) / 15
                zero = np.rint(-lowest / step)
                plain = step * (np.clip(np.rint(exact / step) + zero, 0, 15) - zero)
                self.assertTrue(
                    (((found - exact) ** 2).sum(-1) <= ((plain - exact) ** 2).sum(-1) * 1.02).all()
                )

    def test_an_odd_number_of_four_bit_blocks_is_padded(self) -> None:
        quantized = to_four_bits(self.values)
        self.assertEqual(quantized.codes.shape, (ROWS, 3, 16))
        self.assertEqual(quantized.zero_points.shape, (ROWS, 2))

    def test_rows_that_do_not_divide_into_blocks_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "use fp32"):
            to_eight_bits(self.values[:, :40])


if __name__ == "__main__":
    unittest.main()
