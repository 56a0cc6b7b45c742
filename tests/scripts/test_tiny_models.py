"""The tiny models are fit for exact tests, and the benchmark's bare loop gives the reference's tokens on
them.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import bare_loop
import checkout
import tiny_layouts
import tiny_models
from greedy_reference import greedy, open_session

PROMPT = list(b"The quick brown fox")


class TinyModelsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        tiny_models.write_all(cls.folder)

    def tokens(self, model: str) -> list[int]:
        return greedy(open_session(self.folder / model, threads=1), PROMPT, 48)[0]

    def test_margins_are_wide_and_text_does_not_collapse(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            good = tiny_models.check(self.folder)
        self.assertTrue(good, printed.getvalue())

    def test_each_family_has_one_text(self) -> None:
        self.assertEqual(self.tokens("gpt2"), self.tokens("gpt2-no-cache"))
        self.assertEqual(self.tokens("gpt2"), self.tokens("gpt2-merged"))
        self.assertEqual(self.tokens("gpt2"), self.tokens("gpt2-unpositioned"))
        self.assertEqual(self.tokens("llama"), self.tokens("llama-all-logits"))
        self.assertEqual(self.tokens("llama"), self.tokens("llama-plain"))
        self.assertNotEqual(self.tokens("gpt2"), self.tokens("llama"))

    def test_models_are_small_and_always_the_same(self) -> None:
        with tempfile.TemporaryDirectory() as again:
            tiny_models.write_all(Path(again))
            for file in self.folder.rglob("*.*"):
                if file.is_file():
                    self.assertEqual(
                        file.read_bytes(), (Path(again) / file.relative_to(self.folder)).read_bytes(), file
                    )
        for model in (*self.folder.iterdir(), *(self.folder / "layouts").iterdir()):
            for graph in model.glob("*.onnx*"):
                self.assertLess(graph.stat().st_size, 700_000, graph)

    def test_layouts_with_the_usual_names_have_the_text_of_their_family(self) -> None:
        names = [*tiny_layouts.FROM_GPT2, *tiny_layouts.FROM_LLAMA]
        for name in names:
            if name.startswith(("pair", "zoo", "genai")):
                continue  # of two files, or of names that only the gateway understands
            family = "llama" if name in tiny_layouts.FROM_LLAMA else "gpt2"
            with self.subTest(name):
                self.assertEqual(self.tokens(f"layouts/{name}"), self.tokens(family))

    def test_the_second_graph_of_a_pair_can_do_all_only_where_it_shall(self) -> None:
        expected = self.tokens("gpt2")
        for name, same in (("pair", True), ("pair-unmasked", False)):
            with tempfile.TemporaryDirectory() as alone, self.subTest(name):
                second = self.folder / "layouts" / name / "decoder_with_past_model.onnx"
                (Path(alone) / "model.onnx").write_bytes(second.read_bytes())
                tokens = greedy(open_session(Path(alone), threads=1), PROMPT, 48)[0]
                self.assertEqual(tokens == expected, same)

    def test_the_bare_loop_gives_the_same_tokens_request_after_request(self) -> None:
        for model in ("gpt2", "gpt2-merged", "llama", "llama-all-logits"):
            with self.subTest(model):
                loop = bare_loop.open_loop(self.folder / model, threads=1, capacity_tokens=80)
                bare_loop.measure(loop, PROMPT[::-1] * 2, 30)  # leaves a longer past behind
                self.assertEqual(bare_loop.measure(loop, PROMPT, 48)["token_ids"], self.tokens(model))

    def test_both_commands_speak_json(self) -> None:
        fixtures, scripts = checkout.ROOT / "tests" / "fixtures", checkout.ROOT / "scripts"
        asked = json.dumps({"prompts": [{"prompt_token_ids": PROMPT, "max_tokens": 5}]})
        done = subprocess.run(
            [sys.executable, fixtures / "greedy_reference.py", self.folder / "llama"],
            input=asked,
            text=True,
            capture_output=True,
            check=True,
        )
        self.assertEqual(json.loads(done.stdout), {"token_ids": [self.tokens("llama")[:5]]})
        lines = [{"prompt_token_ids": PROMPT, "tokens": 5}, {"prompt_token_ids": PROMPT, "tokens": 5000}]
        done = subprocess.run(
            [sys.executable, scripts / "bench" / "bare_loop.py", self.folder / "llama"],
            input="".join(json.dumps(line) + "\n" for line in lines),
            text=True,
            capture_output=True,
            check=True,
        )
        ready, answer, refused = map(json.loads, done.stdout.splitlines())
        self.assertTrue(ready["ready"])
        self.assertEqual(answer["token_ids"], self.tokens("llama")[:5])
        self.assertIn("error", refused)


if __name__ == "__main__":
    unittest.main()
