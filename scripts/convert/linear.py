"""Embedding, linear layers and output layer, in each precision of the weights.

fp32   MatMul, Gather, Gemm
int8   MatMulNBits with 8 bits, GatherBlockQuantized
int4   MatMulNBits with 4 bits; embedding and output layer keep 8, they decide between neighbouring tokens
w8a8   MatMulIntegerToFloat of 8-bit weights, one scale an output, and 8-bit activations, one scale a token

The last is the fastest for batches: its product is the plain integer one, for which ONNX Runtime has the best
kernels, while MatMulNBits scales each block of 32. At 16 rows it takes half the time, at 1 row the same.
"""

import numpy as np
from onnx import numpy_helper

from convert.graph import MICROSOFT, GraphBuilder
from convert.llama import Shape, Weights
from convert.quantize import (
    BLOCK_ELEMENTS,
    SYMMETRIC_ZERO_POINT,
    Quantized,
    to_eight_bit_rows,
    to_eight_bits,
    to_float,
    to_four_bits,
)

PRECISIONS = ("fp32", "int8", "int4", "w8a8")

INTEGER_ACTIVATIONS = 4
"""MatMulNBits' accuracy level 4: activations are rounded to int8 too. The only fast one for 8 bits, and for
one row about twice as fast as level 0.
"""


class LinearLayers:
    """Adds the layers that multiply by weights to a graph."""

    def __init__(self, graph: GraphBuilder, shape: Shape, weights: Weights, precision: str) -> None:
        self._graph, self._shape, self._weights, self._precision = graph, shape, weights, precision
        self._zero_points: dict[str, str] = {}

    @property
    def flat(self) -> bool:
        """Whether hidden states are [tokens of all rows, hidden], as one scale a token needs it."""
        return self._precision == "w8a8"

    def linear(self, hidden: str, names: list[str], output: str) -> str:
        """hidden [batch, tokens, in] → [batch, tokens, out]; several weights make one product, side by side."""
        if self._precision == "fp32":
            name = "+".join(names) + ".transposed"
            if not self._graph.has_weight(name):
                self._graph.weight(
                    name, np.concatenate([to_float(self._weights.tensors[part]) for part in names]).T
                )
            return self._graph.node("MatMul", [hidden, name], output)
        if self._precision == "w8a8":
            return self._integer_linear(hidden, names, output)
        return self._quantized_linear(hidden, names, output, bits=8 if self._precision == "int8" else 4)

    def embedding(self, input_ids: str) -> str:
        """input_ids [batch, tokens] → [batch, tokens, hidden]."""
        graph, name = self._graph, "token_embd.weight"
        if self._precision == "fp32":
            self._float_weight(name)
            return graph.node("Gather", [name, input_ids], "embedding")
        # The codes have the same name as the output layer's, so that a tied embedding is stored once.
        scales = f"{name}.scales_of_rows"
        if not graph.has_weight(scales):
            quantized = self._quantize([name], bits=8)
            _require_no_zero_points(quantized, name)
            graph.weight(f"{name}.codes", quantized.codes)
            graph.weight(scales, quantized.scales[..., None])
        blocks = graph.node(
            "GatherBlockQuantized",
            [f"{name}.codes", input_ids, scales],
            "embedding_blocks",
            MICROSOFT,
            bits=8,
            block_size=BLOCK_ELEMENTS,
            gather_axis=0,
            quantize_axis=2,
        )
        leading = [-1] if self.flat else [0, 0]
        return graph.node("Reshape", [blocks, graph.integers(*leading, self._shape.hidden_size)], "embedding")

    def logits(self, hidden: str, logits_index: str | None) -> str:
        """Logits of every position, or with `logits_index` [wanted] of those positions of each row: [batch,
        wanted, vocab].
        """
        graph, name = self._graph, self._weights.output_name
        if self.flat:
            return self._flat_logits(hidden, logits_index)
        if logits_index is not None:
            hidden = graph.node("Gather", [hidden, logits_index], "wanted_hidden", axis=1)
        if self._precision != "fp32":
            return self._quantized_linear(hidden, [name], "logits", bits=8)
        if not self._weights.tied:
            return self.linear(hidden, [name], "logits")
        # Gemm reads the embedding as it lies; MatMul would need a second, transposed copy of the largest
        # weight.
        self._float_weight(name)
        rows = graph.node("Reshape", [hidden, graph.integers(-1, self._shape.hidden_size)], "hidden_rows")
        flat = graph.node("Gemm", [rows, name], "logits_rows", transB=1)
        leading = graph.node("Shape", [hidden], "logits_leading_dimensions", start=0, end=2)
        target = graph.node(
            "Concat", [leading, graph.integers(self._shape.vocabulary_size)], "logits_shape", axis=0
        )
        return graph.node("Reshape", [flat, target], "logits")

    def _flat_logits(self, hidden: str, logits_index: str | None) -> str:
        """The same from hidden [tokens of all rows, in], through a product that is as flat."""
        graph, sizes = self._graph, self._shape
        rows_and_tokens = graph.node("Shape", ["input_ids"], "logits_leading_dimensions")
        if logits_index is not None:
            apart = graph.node(
                "Concat", [rows_and_tokens, graph.integers(sizes.hidden_size)], "hidden_shape", axis=0
            )
            hidden = graph.node("Reshape", [hidden, apart], "hidden_of_rows")
            hidden = graph.node("Gather", [hidden, logits_index], "wanted_hidden", axis=1)
            rows_and_tokens = graph.node("Shape", [hidden], "wanted_leading_dimensions", start=0, end=2)
            hidden = graph.node("Reshape", [hidden, graph.integers(-1, sizes.hidden_size)], "wanted_flat")
        flat = self._integer_linear(hidden, [self._weights.output_name], "logits_flat", "wanted")
        shape = graph.node(
            "Concat", [rows_and_tokens, graph.integers(sizes.vocabulary_size)], "logits_shape", axis=0
        )
        return graph.node("Reshape", [flat, shape], "logits")

    def _integer_linear(self, hidden: str, names: list[str], output: str, tokens: str = "fed") -> str:
        """hidden [tokens, in] → [tokens, out]: a product of 8-bit integers, scaled by token and by column.

        A token's scale depends on its own numbers alone, so it is computed the same in every batch. `tokens` names
        which ones are multiplied: all fed, or the wanted.
        """
        graph, name = self._graph, "+".join(names)
        if not graph.has_weight(f"{name}.columns"):
            codes, scales = to_eight_bit_rows(
                np.concatenate([to_float(self._weights.tensors[part]) for part in names])
            )
            graph.weight(f"{name}.columns", codes.T)
            graph.weight(f"{name}.column_scales", scales)
        sizes = graph.node("Abs", [hidden], f"{output}/sizes")
        largest = graph.node("ReduceMax", [sizes], f"{output}/largest", axes=[1], keepdims=0)
        scales = graph.node("Mul", [largest, graph.number(1 / 127)], f"{output}/scales")
        if tokens not in self._zero_points:
            # QuantizeLinear wants as many zero points as scales.
            count = graph.node("Shape", [scales], f"{tokens}_tokens")
            zero = numpy_helper.from_array(np.array([SYMMETRIC_ZERO_POINT], np.uint8))
            self._zero_points[tokens] = graph.node(
                "ConstantOfShape", [count], f"{tokens}_zero_points", value=zero
            )
        codes = graph.node(
            "QuantizeLinear", [hidden, scales, self._zero_points[tokens]], f"{output}/codes", axis=0
        )
        product = graph.node(
            "MatMulIntegerToFloat",
            [
                codes,
                f"{name}.columns",
                graph.number(1.0),
                f"{name}.column_scales",
                graph.weight("zero_point", np.array(SYMMETRIC_ZERO_POINT, np.uint8)),
            ],
            f"{output}/product",
            MICROSOFT,
        )
        column = graph.node("Unsqueeze", [scales, graph.integers(1)], f"{output}/scale_column")
        return graph.node("Mul", [product, column], output)

    def _quantized_linear(self, hidden: str, names: list[str], output: str, bits: int) -> str:
        graph, name = self._graph, "+".join(names)
        if not graph.has_weight(f"{name}.scales"):
            quantized = self._quantize(names, bits)
            graph.weight(f"{name}.codes", quantized.codes)
            graph.weight(f"{name}.scales", quantized.scales)
            if quantized.zero_points is not None:
                graph.weight(f"{name}.zero_points", quantized.zero_points)
        inputs = [hidden, f"{name}.codes", f"{name}.scales"]
        if graph.has_weight(f"{name}.zero_points"):
            inputs.append(f"{name}.zero_points")
        rows = sum(self._rows_and_columns(part)[0] for part in names)
        return graph.node(
            "MatMulNBits",
            inputs,
            output,
            MICROSOFT,
            K=self._rows_and_columns(names[0])[1],
            N=rows,
            bits=bits,
            block_size=BLOCK_ELEMENTS,
            accuracy_level=INTEGER_ACTIVATIONS,
        )

    def _quantize(self, names: list[str], bits: int) -> Quantized:
        """The weights one below the other; all with zero points or all without, as one operator needs it."""
        tensors = [self._weights.tensors[name] for name in names]
        # Embedding and output layer have no zero points: Q4 ones are rounded anew to symmetric 8 bits.
        shared = names[0] in ("token_embd.weight", "output.weight")
        kinds = {getattr(tensor, "bits", None) == 4 for tensor in tensors}
        if bits == 8 and ((shared and True in kinds) or len(kinds) > 1):
            tensors = [to_float(tensor) for tensor in tensors]
        parts = [to_eight_bits(tensor) if bits == 8 else to_four_bits(tensor) for tensor in tensors]
        zero_points = [part.zero_points for part in parts if part.zero_points is not None]
        return Quantized(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.scales for part in parts]),
            np.concatenate(zero_points) if zero_points else None,
            bits,
        )

    def _rows_and_columns(self, name: str) -> tuple[int, int]:
        tensor = self._weights.tensors[name]
        if isinstance(tensor, np.ndarray):
            return tensor.shape[0], tensor.shape[1]
        return tensor.codes.shape[0], tensor.codes.shape[1] * BLOCK_ELEMENTS

    def _float_weight(self, name: str) -> None:
        if not self._graph.has_weight(name):
            self._graph.weight(name, to_float(self._weights.tensors[name]))


def _require_no_zero_points(quantized: Quantized, name: str) -> None:
    if quantized.zero_points is not None:
        raise AssertionError(f"{name} must be quantised symmetrically")
