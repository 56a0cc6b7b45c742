"""Builds an ONNX graph node by node and writes it, weights apart in `NAME.data`.

Knows nothing of models. Every method that makes something returns its name, and code passes these names on:
inside a branch of an `If` the builder prefixes them, because ONNX wants a name once in the whole model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators

OPSET = 17
IR_VERSION = 9

EXTERNAL_FROM_BYTES = 1024
"""Smaller constants stay in the graph: shapes must be readable without the data file."""
EXTERNAL_ALIGNMENT_BYTES = 4096
"""Page size, so that ONNX Runtime can map weights instead of copying them."""

Dimensions = Sequence[int | str]


class GraphBuilder:
    """The nodes, inputs and outputs of one graph; branches share their parent's weights."""

    def __init__(self, data_file: BinaryIO | None = None, data_name: str = "") -> None:
        """With `data_file`, large weights are written to it at once and are never all in memory."""
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._data_file, self._data_name = data_file, data_name
        self._prefix = ""

    def branch(self, name: str) -> "GraphBuilder":
        """A builder for one branch of an `If`; it may use all values and weights of this graph."""
        branch = GraphBuilder(self._data_file, self._data_name)
        branch._weights = self._weights
        branch._prefix = f"{self._prefix}{name}/"
        return branch

    def input(self, name: str, element_type: int, dimensions: Dimensions) -> str:
        """Declare an input of the graph; a dimension is a number or a symbol."""
        self._inputs.append(helper.make_tensor_value_info(name, element_type, dimensions))
        return name

    def output(self, name: str, element_type: int, dimensions: Dimensions) -> str:
        """Declare an output of the graph: the name of an existing value."""
        self._outputs.append(helper.make_tensor_value_info(name, element_type, dimensions))
        return name

    def node(
        self, operator: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output and return the output's full name."""
        return self.node_with_outputs(operator, inputs, [output], domain, **attributes)[0]

    def node_with_outputs(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node with several outputs; an empty name is an output that is not wanted."""
        names = [name and self._prefix + name for name in outputs]
        self._nodes.append(
            helper.make_node(
                operator, list(inputs), names, name=f"{names[0]}/{operator}", domain=domain, **attributes
            )
        )
        return names

    def weight(self, name: str, values: np.ndarray) -> str:
        """A constant by name; a name that exists already keeps its first values."""
        if name not in self._weights:
            values = np.ascontiguousarray(values)
            store = self._external if self._data_file and values.nbytes >= EXTERNAL_FROM_BYTES else _inline
            self._weights[name] = store(name, values)
        return name

    def has_weight(self, name: str) -> bool:
        """Whether `weight` was called with this name: spares the work of computing it again."""
        return name in self._weights

    def integers(self, *values: int) -> str:
        """A constant int64 list, for shapes and axes."""
        return self.weight("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant int64 number without dimensions."""
        return self.weight(f"integer_{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 number without dimensions."""
        return self.weight(f"number_{value:g}", np.array(value, np.float32))

    def choose(
        self, condition: str, branches: tuple["GraphBuilder", "GraphBuilder"], outputs: Sequence[str]
    ) -> None:
        """Add an `If`: the outputs of the first branch where `condition` is true, else those of the second."""
        then_graph, else_graph = (branch._graph(branch._prefix.strip("/"), []) for branch in branches)
        self.node_with_outputs("If", [condition], outputs, then_branch=then_graph, else_branch=else_graph)
        self._nodes[-1].name = "/".join([outputs[0], "If"])

    def model(self, name: str) -> onnx.ModelProto:
        """The finished model."""
        graph = self._graph(name, list(self._weights.values()))
        # Only the domains that are used: a graph of plain operators must say that it is one.
        domains = {node.domain for node in _all_nodes(graph)}
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(MICROSOFT, 1)] if MICROSOFT in domains else []
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="inference-gateway"
        )

    def _graph(self, name: str, weights: list[onnx.TensorProto]) -> onnx.GraphProto:
        return helper.make_graph(self._nodes, name, self._inputs, self._outputs, weights)

    def _external(self, name: str, values: np.ndarray) -> onnx.TensorProto:
        file = self._data_file
        file.write(b"\0" * (-file.tell() % EXTERNAL_ALIGNMENT_BYTES))
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(values.dtype),
            dims=values.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": self._data_name, "offset": file.tell(), "length": values.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        file.write(values.data)
        return tensor


def write_model(path: Path, name: str, model: onnx.ModelProto) -> None:
    """Write the graph (its weights, if apart, are written already)."""
    model.graph.name = name
    path.write_bytes(model.SerializeToString())


def _inline(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values, name)


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                nodes += _all_nodes(attribute.g)
    return nodes
