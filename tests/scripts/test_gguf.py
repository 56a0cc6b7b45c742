"""The GGUF reader against files written byte by byte, whole and damaged."""

import struct
import tempfile
import unittest
from pathlib import Path

import checkout  # first: it makes scripts/ importable
import gguf_writer as writer
import numpy as np

from convert.gguf import GgufError, GgufFile
from convert.llama import half_split_rows, read_llama


class GgufFileTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "model.gguf"

    def refused(self, content: bytes, because: str) -> None:
        self.path.write_bytes(content)
        with self.assertRaisesRegex(GgufError, because):
            GgufFile(self.path)

    def test_metadata_and_tensors_come_back_as_written(self) -> None:
        metadata = {
            "general.architecture": "llama",
            "number": 7,
            "real": 0.5,
            "flag": True,
            "words": ["", "Ünï", "🙂"],
            "numbers": [-1, 2],
        }
        values = np.arange(6, dtype=np.float32).reshape(2, 3)
        writer.write_gguf(
            self.path, metadata, {"first": (values, writer.F32), "second": (values[0] + 1, writer.F16)}
        )
        file = GgufFile(self.path)
        self.assertEqual(file.metadata, metadata)
        self.assertEqual(file.tensors["first"].shape, (2, 3))
        np.testing.assert_array_equal(file.tensors["first"].data.view(np.float32), values)
        np.testing.assert_array_equal(file.tensors["second"].data.view(np.float16)[0], values[0] + 1)

    def test_a_file_cut_anywhere_is_refused(self) -> None:
        whole = writer.write_llama(self.path, writer.Q8_0).read_bytes()
        GgufFile(self.path)
        last_tensor_ends = len(whole)  # all tensors here end at the alignment
        for length in [*range(0, 200), *range(200, last_tensor_ends, 997), last_tensor_ends - 1]:
            with self.subTest(length=length):
                self.refused(whole[:length], "truncated|damaged|empty|no GGUF")

    def test_changed_bytes_in_the_header_never_raise_anything_else(self) -> None:
        whole = writer.write_llama(self.path, writer.F32).read_bytes()
        header = whole.index(b"blk.1.ffn_down.weight") + 60
        random = np.random.default_rng(5)
        refused = 0
        for _ in range(1500):
            changed = bytearray(whole)
            changed[int(random.integers(4, header))] = int(random.integers(0, 256))
            self.path.write_bytes(changed)
            try:
                read_llama(GgufFile(self.path))
            except ValueError:
                refused += 1
        self.assertGreater(refused, 100)

    def test_impossible_headers_are_refused(self) -> None:
        start = b"GGUF" + struct.pack("<I", 3)
        self.refused(b"PK\3\4" + b"\0" * 40, "no GGUF file")
        self.refused(b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1")
        self.refused(start + struct.pack("<QQ", 0, 2**60), "metadata count")
        self.refused(start + struct.pack("<QQ", 0, 1) + writer.string("k") + struct.pack("<I", 99), "type 99")
        strings = start + struct.pack("<QQ", 0, 1) + writer.string("k") + struct.pack("<II", 9, 8)
        self.refused(strings + struct.pack("<Q", 2**61), "length of k")
        self.refused(strings + struct.pack("<QQ", 1, 9) + b"only8bye", "ends inside k")
        self.refused(
            start + struct.pack("<QQ", 0, 1) + writer.string("k") + struct.pack("<IQ", 8, 2) + b"\xff\xfe",
            "not UTF-8",
        )
        tensor = writer.string("t") + struct.pack("<I", 1) + struct.pack("<QIQ", 32, 12, 0)
        self.refused(start + struct.pack("<QQ", 1, 0) + tensor + b"\0" * 64, "encoding number 12")
        tensor = writer.string("t") + struct.pack("<I", 1) + struct.pack("<QIQ", 33, writer.Q8_0, 0)
        self.refused(start + struct.pack("<QQ", 1, 0) + tensor + b"\0" * 64, "do not divide")
        tensor = writer.string("t") + struct.pack("<I", 1) + struct.pack("<QIQ", 8, writer.F32, 16)
        self.refused(start + struct.pack("<QQ", 1, 0) + tensor + b"\0" * 64, "multiple of 32")
        tensor = (
            writer.string("t")
            + struct.pack("<I", 4)
            + struct.pack("<QQQQIQ", 2**62, 2**62, 4, 4, writer.F32, 0)
        )
        self.refused(start + struct.pack("<QQ", 1, 0) + tensor + b"\0" * 64, "truncated")


class LlamaTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "model.gguf"

    def test_half_split_rows_undo_the_interleaving(self) -> None:
        rows = np.arange(4 * 16)
        stored = writer.interleave_rows(rows, heads=4)
        self.assertEqual(stored[:6].tolist(), [0, 8, 1, 9, 2, 10])
        np.testing.assert_array_equal(stored[half_split_rows(heads=4, head_size=16)], rows)

    def test_weights_come_back_in_hugging_face_order(self) -> None:
        shape, weights, _ = read_llama(GgufFile(writer.write_llama(self.path)))
        self.assertEqual((shape.head_size, shape.key_value_heads, shape.norm_epsilon), (16, 2, 1e-5))
        for name, values in writer.llama_weights().items():
            np.testing.assert_array_equal(weights.tensors[name], values, err_msg=name)

    def test_what_the_decoder_has_no_place_for_is_refused(self) -> None:
        weights = {name: (values, writer.F32) for name, values in writer.llama_weights().items()}
        bias = weights | {"blk.0.attn_q.bias": (np.zeros(64, np.float32), writer.F32)}
        missing = {name: tensor for name, tensor in weights.items() if name != "blk.1.ffn_up.weight"}
        wrong = weights | {"blk.1.ffn_up.weight": (np.zeros((96, 32), np.float32), writer.F32)}
        for tensors, changes, because in (
            (bias, {}, "attn_q.bias has no place"),
            (missing, {}, "ffn_up.weight is missing"),
            (wrong, {}, "has shape"),
            (weights, {"general.architecture": "qwen2"}, "only 'llama'"),
            (weights | {"output_norm.weight": (np.full(64, np.nan), writer.F32)}, {}, "no numbers"),
            (weights, {"llama.rope.scaling.type": "linear"}, "scaled rotary"),
            (weights, {"tokenizer.ggml.model": "llama"}, "only byte-level BPE"),
        ):
            with self.subTest(because), self.assertRaisesRegex(GgufError, because):
                read_llama(GgufFile(writer.write_gguf(self.path, writer.llama_metadata() | changes, tensors)))


if __name__ == "__main__":
    unittest.main()
