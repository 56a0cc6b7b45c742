"""Reads a GGUF file: metadata and the raw bytes of its tensors, memory-mapped.

Stands at the beginning of the conversion and knows nothing of models. A damaged file raises `GgufError`:
every length and offset is checked against the size of the file before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little-endian, versions 2 and 3):

    magic version tensor_count metadata_count | metadata… | tensor descriptions… | padding | tensor data…
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DEFAULT_ALIGNMENT_BYTES = 32
MOST_DIMENSIONS = 4

_STRING, _ARRAY, _BOOLEAN = 8, 9, 7
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    _BOOLEAN: "<u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


class GgufError(ValueError):
    """The file is not a GGUF file that this reader understands."""


@dataclass(frozen=True)
class Encoding:
    """How a row of numbers is stored: in blocks of so many elements, each so many bytes."""

    name: str
    block_elements: int
    block_bytes: int


ENCODINGS = {
    0: Encoding("F32", 1, 4),
    1: Encoding("F16", 1, 2),
    2: Encoding("Q4_0", 32, 18),
    3: Encoding("Q4_1", 32, 20),
    8: Encoding("Q8_0", 32, 34),
}


@dataclass(frozen=True)
class RawTensor:
    """A tensor as it lies in the file."""

    name: str
    shape: tuple[int, ...]
    """Outermost dimension first, as in numpy (the file has it the other way round)."""
    encoding: Encoding
    data: np.ndarray
    """The stored bytes, uint8 [rows, bytes of a row]: a read-only view of the mapped file."""


class GgufFile:
    """A parsed GGUF file: `metadata` by key and `tensors` by name."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise GgufError("the file is empty")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(self._bytes)
        if cursor.take(4, "magic") != b"GGUF":
            raise GgufError("this is no GGUF file: it does not begin with 'GGUF'")
        version = cursor.number("<I", "version")
        if version not in (2, 3):
            raise GgufError(f"GGUF version {version} is not supported (2 and 3 are)")
        tensor_count = cursor.count("tensor count", smallest_item_bytes=24)
        metadata_count = cursor.count("metadata count", smallest_item_bytes=13)
        self.metadata: dict[str, Any] = {}
        for _ in range(metadata_count):
            key = cursor.string("a metadata key")
            self.metadata[key] = cursor.value(cursor.number("<I", f"type of {key}"), key)
        descriptions = [cursor.tensor_description() for _ in range(tensor_count)]
        self.tensors = self._locate(descriptions, cursor.position)

    def _locate(self, descriptions: list[tuple], end_of_header: int) -> dict[str, RawTensor]:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT_BYTES)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise GgufError(f"general.alignment is {alignment!r}, not a positive multiple of 8")
        start = end_of_header + -end_of_header % alignment
        tensors: dict[str, RawTensor] = {}
        for name, shape, encoding, offset in descriptions:
            if name in tensors:
                raise GgufError(f"tensor {name} is described twice")
            if offset % alignment:
                raise GgufError(f"tensor {name} begins at {offset}, not at a multiple of {alignment}")
            rows, row_elements = int(np.prod(shape[:-1], dtype=object)), shape[-1]
            if row_elements % encoding.block_elements:
                raise GgufError(
                    f"tensor {name}: rows of {row_elements} do not divide into {encoding.name} blocks"
                )
            row_bytes = row_elements // encoding.block_elements * encoding.block_bytes
            begin = start + offset
            if begin + rows * row_bytes > len(self._bytes):
                raise GgufError(
                    f"tensor {name} ends at byte {begin + rows * row_bytes}, but the file has only "
                    f"{len(self._bytes)}: it is truncated"
                )
            data = np.frombuffer(self._bytes, np.uint8, rows * row_bytes, begin).reshape(rows, row_bytes)
            tensors[name] = RawTensor(name, shape, encoding, data)
        return tensors


class _Cursor:
    """Reads forward through the header; never beyond the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 0

    def take(self, count_bytes: int, what: str) -> bytes:
        if count_bytes > len(self._data) - self.position:
            raise GgufError(
                f"the file ends inside {what} (at byte {self.position}): it is truncated or damaged"
            )
        begin, self.position = self.position, self.position + count_bytes
        return self._data[begin : self.position]

    def number(self, form: str, what: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def count(self, what: str, smallest_item_bytes: int) -> int:
        """A number of items that follow; refused when the rest of the file cannot hold so many."""
        count = self.number("<Q", what)
        if count * smallest_item_bytes > len(self._data) - self.position:
            raise GgufError(f"{what} is {count}, more than the file can hold: it is truncated or damaged")
        return count

    def string(self, what: str) -> str:
        raw = self.take(self.count(f"length of {what}", 1), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise GgufError(f"{what} is not UTF-8") from error

    def value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.string(key)
        if kind == _ARRAY:
            return self._array(key)
        return self._scalars(kind, 1, key)[0]

    def _array(self, key: str) -> list:
        kind = self.number("<I", f"element type of {key}")
        if kind == _STRING:
            return self._strings(self.count(f"length of {key}", 8), key)
        if kind not in _SCALARS:
            raise GgufError(f"{key} is an array of type {kind}, which this reader does not know")
        return self._scalars(kind, self.count(f"length of {key}", np.dtype(_SCALARS[kind]).itemsize), key)

    def _scalars(self, kind: int, count: int, key: str) -> list:
        if kind not in _SCALARS:
            raise GgufError(f"{key} has type {kind}, which this reader does not know")
        numbers = np.dtype(_SCALARS[kind])
        values = np.frombuffer(self.take(count * numbers.itemsize, key), numbers)
        return (values != 0 if kind == _BOOLEAN else values).tolist()

    def _strings(self, count: int, key: str) -> list[str]:
        """A vocabulary has 100,000 strings: this loop has no function call for each."""
        data, position, end, length_of = (
            self._data,
            self.position,
            len(self._data),
            struct.Struct("<Q").unpack_from,
        )
        strings = []
        try:
            for _ in range(count):
                begin = position + 8
                position = begin + length_of(data, position)[0]
                if position > end:
                    raise GgufError(f"the file ends inside {key}: it is truncated or damaged")
                strings.append(data[begin:position].decode("utf-8"))
        except struct.error as error:
            raise GgufError(f"the file ends inside {key}: it is truncated or damaged") from error
        except UnicodeDecodeError as error:
            raise GgufError(f"{key} has a string that is not UTF-8") from error
        self.position = position
        return strings

    def tensor_description(self) -> tuple[str, tuple[int, ...], Encoding, int]:
        name = self.string("a tensor name")
        dimensions = self.number("<I", f"dimension count of {name}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise GgufError(
                f"tensor {name} has {dimensions} dimensions (1 to {MOST_DIMENSIONS} are supported)"
            )
        shape = tuple(self.number("<Q", f"shape of {name}") for _ in range(dimensions))[::-1]
        kind = self.number("<I", f"encoding of {name}")
        if kind not in ENCODINGS:
            known = ", ".join(encoding.name for encoding in ENCODINGS.values())
            raise GgufError(
                f"tensor {name} has encoding number {kind}, which this reader does not know ({known})"
            )
        return name, shape, ENCODINGS[kind], self.number("<Q", f"offset of {name}")
