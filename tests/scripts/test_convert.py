"""The converter as a command: every form of graph gives the same tokens, and they are those of the plain
formulas.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import checkout
import gguf_writer as writer
import numpy as np
import onnx
from greedy_reference import greedy, open_session, run

import convert.__main__
from convert.calibrate import observe
from convert.decoder import ATTENTION_FORMS, Form, write_decoder
from convert.gguf import GgufFile
from convert.llama import Shape, Weights, read_llama
from convert.smooth import smooth

PROMPT = [5, 17, 40, 3, 77, 20, 8]
NEW_TOKENS = 24


def formula_logits(weights: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits of the last token, from the definition of the llama decoder, in float64 and without any graph."""

    def norm(rows: np.ndarray, name: str) -> np.ndarray:
        return rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-5) * weights[name]

    def rotate(row: np.ndarray, position: int) -> np.ndarray:
        half = len(row) // 2
        angle = position * 10_000.0 ** -(np.arange(half) / half)
        first, second = row[:half], row[half:]
        return np.concatenate(
            [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)]
        )

    size, shared = writer.HIDDEN // writer.HEADS, writer.HEADS // writer.KEY_VALUE_HEADS
    weights = {name: values.astype(np.float64) for name, values in weights.items()}
    hidden = weights["token_embd.weight"][tokens]
    for layer in range(writer.LAYERS):

        def part(name: str, layer: int = layer) -> np.ndarray:
            return weights[f"blk.{layer}.{name}.weight"]

        normed = norm(hidden, f"blk.{layer}.attn_norm.weight")
        query, key, value = (normed @ part(f"attn_{name}").T for name in "qkv")
        mixed = np.zeros_like(query)
        for head in range(writer.HEADS):
            mine, theirs = (
                slice(head * size, (head + 1) * size),
                slice(head // shared * size, (head // shared + 1) * size),
            )
            for position in range(len(tokens)):
                asked = rotate(query[position, mine], position)
                scores = np.array(
                    [asked @ rotate(key[earlier, theirs], earlier) for earlier in range(position + 1)]
                )
                shares = np.exp(scores / size**0.5 - (scores / size**0.5).max())
                mixed[position, mine] = shares / shares.sum() @ value[: position + 1, theirs]
        hidden = hidden + mixed @ part("attn_output").T
        normed = norm(hidden, f"blk.{layer}.ffn_norm.weight")
        gate = normed @ part("ffn_gate").T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * (normed @ part("ffn_up").T)) @ part("ffn_down").T
    output = weights.get("output.weight", weights["token_embd.weight"])
    return norm(hidden, "output_norm.weight")[-1] @ output.T


class ConvertTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)

    def converted(self, gguf: Path, attention: str, weights: str, logits: str = "last") -> Path:
        folder = self.folder / f"{gguf.stem}-{attention}-{weights}-{logits}"
        if folder.exists():
            return folder
        options = ["--attention", attention, "--weights", weights, "--logits", logits]
        self.assertEqual(convert.__main__.main([str(gguf), str(folder), *options]), 0)
        if attention != "gqa":  # SimplifiedLayerNormalization is ONNX Runtime's, yet in the standard domain
            onnx.checker.check_model(str(next(folder.glob("*.onnx"))))
        return folder

    def test_every_form_gives_the_tokens_of_the_formulas(self) -> None:
        for tied in (False, True):
            gguf = writer.write_llama(self.folder / f"float{'-tied' if tied else ''}.gguf", writer.F32, tied)
            tokens = list(PROMPT)
            while len(tokens) < len(PROMPT) + NEW_TOKENS:
                tokens.append(int(formula_logits(writer.llama_weights(tied=tied), tokens).argmax()))
            expected = tokens[len(PROMPT) :]
            if not tied:  # a tied random head only repeats its input
                self.assertGreater(
                    len(set(expected)), 5, "the random model repeats itself and would prove nothing"
                )
            for attention in ATTENTION_FORMS:
                for logits in ("last", "all"):
                    with self.subTest(attention=attention, logits=logits, tied=tied):
                        folder = self.converted(gguf, attention, "fp32", logits)
                        found, margins = greedy(open_session(folder, threads=1), PROMPT, NEW_TOKENS)
                        self.assertGreater(min(margins), 1e-3, "margins too small to compare tokens")
                        self.assertEqual(found, expected)

    def test_logits_of_each_form_are_near_the_formulas(self) -> None:
        gguf = writer.write_llama(self.folder / "float.gguf", writer.F32)
        expected = formula_logits(writer.llama_weights(), PROMPT)
        for attention in ATTENTION_FORMS:
            with self.subTest(attention=attention):
                session = open_session(self.converted(gguf, attention, "fp32"), threads=1)
                found, _ = run(session, PROMPT, None, 0)
                np.testing.assert_allclose(found, expected, atol=2e-4)

    def test_logits_index_chooses_the_positions(self) -> None:
        gguf = writer.write_llama(self.folder / "float.gguf", writer.F32)
        for attention in ("gqa", "mha", "none"):
            with self.subTest(attention=attention):
                last, every = (
                    open_session(self.converted(gguf, attention, "fp32", logits), threads=1)
                    for logits in ("last", "all")
                )
                feed = {
                    "input_ids": np.array([PROMPT, PROMPT[::-1]], np.int64),
                    "attention_mask": np.ones((2, len(PROMPT)), np.int64),
                    "position_ids": np.tile(np.arange(len(PROMPT)), (2, 1)),
                }
                for wanted in last.get_inputs():
                    if wanted.name.startswith("past"):
                        feed[wanted.name] = np.zeros((2, wanted.shape[1], 0, wanted.shape[3]), np.float32)
                feed = {
                    name: value
                    for name, value in feed.items()
                    if name in {i.name for i in every.get_inputs()}
                }
                chosen = last.run(["logits"], feed | {"logits_index": np.array([2, 5])})[0]
                whole = every.run(["logits"], feed)[0]
                self.assertEqual(chosen.shape, (2, 2, len(writer.TOKENS)))
                np.testing.assert_allclose(chosen, whole[:, [2, 5]], atol=1e-5)

    def test_quantised_graphs_agree_among_forms_and_with_their_weights(self) -> None:
        # fp32 of a Q8_0 file holds the same numbers as its int8, so only rounded activations separate the
        # two.
        for encoding, name in ((writer.Q8_0, "q8"), (writer.Q4_1, "q4")):
            for tied in (False, True):
                gguf = writer.write_llama(self.folder / f"{name}-tied-{tied}.gguf", encoding, tied)
                exact, _ = run(open_session(self.converted(gguf, "gqa", "fp32"), 1), PROMPT, None, 0)
                for attention in ATTENTION_FORMS:
                    with self.subTest(encoding=name, tied=tied, attention=attention):
                        session = open_session(self.converted(gguf, attention, "int8"), 1)
                        found, _ = run(session, PROMPT, None, 0)
                        self.assertLess(np.abs(found - exact).max(), 0.05 * np.abs(exact).max())
                        self.assertGreater(np.abs(found - exact).max(), 0, "int8 computed in fp32?")

    def test_eight_bit_activations_stay_near_and_do_not_see_the_other_rows(self) -> None:
        gguf = writer.write_llama(self.folder / "float.gguf", writer.F32)
        exact, _ = run(open_session(self.converted(gguf, "gqa", "fp32"), 1), PROMPT, None, 0)
        session = open_session(self.converted(gguf, "gqa", "w8a8"), 1)
        alone, _ = run(session, PROMPT, None, 0)
        self.assertGreater(np.corrcoef(alone, exact)[0, 1], 0.99)
        feed = {
            "input_ids": np.array([PROMPT[::-1], PROMPT], np.int64),
            "attention_mask": np.ones((2, len(PROMPT)), np.int64),
            "logits_index": np.array([len(PROMPT) - 1]),
        }
        for wanted in session.get_inputs():
            if wanted.name.startswith("past"):
                feed[wanted.name] = np.zeros((2, wanted.shape[1], 0, wanted.shape[3]), np.float32)
        together = session.run(["logits"], feed)[0][1, 0]
        np.testing.assert_array_equal(together, alone)

    def test_smoothing_changes_ranges_and_no_result(self) -> None:
        gguf = writer.write_llama(self.folder / "float.gguf", writer.F32)
        shape, weights, _ = read_llama(GgufFile(gguf))
        before = observe(shape, weights, PROMPT)
        smoothed = smooth(shape, weights, before)
        after = observe(shape, smoothed, PROMPT)
        self.assertFalse(np.allclose(before.output_input, after.output_input, rtol=0.05))
        exact, found = (
            run(open_session(self.written(shape, tensors), 1), PROMPT, None, 0)[0]
            for tensors in (weights, smoothed)
        )
        np.testing.assert_allclose(found, exact, atol=2e-4)

    def written(self, shape: Shape, weights: Weights) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write_decoder(folder / "model.onnx", shape, weights, Form())
        return folder

    def test_int4_stays_in_the_neighbourhood(self) -> None:
        gguf = writer.write_llama(self.folder / "float.gguf", writer.F32)
        exact, _ = run(open_session(self.converted(gguf, "gqa", "fp32"), 1), PROMPT, None, 0)
        found, _ = run(open_session(self.converted(gguf, "gqa", "int4"), 1), PROMPT, None, 0)
        self.assertGreater(np.corrcoef(found, exact)[0, 1], 0.9)

    def test_optimum_forms_in_fp32_use_standard_operators_only(self) -> None:
        gguf = writer.write_llama(self.folder / "float.gguf", writer.F32)
        for attention in ("mha", "none", "merged"):
            model = onnx.load(
                next(self.converted(gguf, attention, "fp32").glob("*.onnx")), load_external_data=False
            )
            self.assertEqual([opset.domain for opset in model.opset_import], [""], attention)

    def test_a_damaged_file_is_one_line_of_error(self) -> None:
        bad = self.folder / "bad.gguf"
        bad.write_bytes(b"GGUF\3\0\0\0")
        done = subprocess.run(
            [sys.executable, "-m", "convert", bad, self.folder / "never"],
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(checkout.ROOT / "scripts")},
        )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^convert: error: .*bad\.gguf: .*truncated.*\n$")
        self.assertFalse((self.folder / "never").exists())


@unittest.skipUnless(
    (checkout.PREPARED / "models" / "smollm2-135m-instruct-fp32").exists(),
    "needs: prepare.py --precision fp32 model",
)
class GoldenTest(unittest.TestCase):
    def test_the_prepared_fp32_model_gives_golden_tokens(self) -> None:
        session = open_session(checkout.PREPARED / "models" / "smollm2-135m-instruct-fp32", threads=2)
        for case in json.loads(checkout.GOLDEN.read_text())["cases"][:3]:
            with self.subTest(case["prompt"]):
                found, _ = greedy(session, case["prompt_token_ids"], len(case["token_ids"]))
                self.assertEqual(found, case["token_ids"])


if __name__ == "__main__":
    unittest.main()
