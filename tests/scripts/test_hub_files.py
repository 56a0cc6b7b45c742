"""The side files: what Hugging Face's own tokenizer library makes of them, and when genai_config.json is
written.
"""

import json
import tempfile
import unittest
from pathlib import Path

import checkout
import gguf_writer as writer
from tokenizers import Tokenizer

from convert.decoder import Form
from convert.gguf import GgufError, GgufFile
from convert.hub_files import write_hub_files
from convert.llama import read_llama

TEXTS = (
    "Hello, world!",
    "  leading and   many    spaces  ",
    "\n\n\ttabs\tand\r\nnewlines \n",
    "x**2 + 10_000 // 3",
    "Ünïcödé naïve café",
    "日本語のテキスト",
    "🤷🏽‍♂️ 🇫🇷",
    "<|im_start|>user\nHi<|im_end|>\n",
    "\x00\x01\x7f",
    "",
)


class HubFilesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def written(self, form: Form, changes: dict | None = None) -> Path:
        tensors = {name: (values, writer.F32) for name, values in writer.llama_weights().items()}
        path = writer.write_gguf(
            self.folder / "model.gguf", writer.llama_metadata() | (changes or {}), tensors
        )
        shape, weights, tokenizer = read_llama(GgufFile(path))
        write_hub_files(self.folder, shape, tokenizer, form, weights.tied)
        return self.folder

    def test_text_becomes_the_right_tokens(self) -> None:
        tokenizer = Tokenizer.from_file(str(self.written(Form()) / "tokenizer.json"))
        encoded = tokenizer.encode("ab<|im_end|>12 <note>", add_special_tokens=False)
        self.assertEqual(encoded.tokens, ["ab", "<|im_end|>", "1", "2", "Ġ", "<note>"])
        self.assertEqual(encoded.ids, [writer.TOKENS.index(token) for token in encoded.tokens])
        # "12" is a token and a merge, but this model's splitting rules keep digits apart.
        self.assertIn("12", writer.TOKENS)
        # Control tokens are no text; the user's own tokens are.
        self.assertEqual(tokenizer.decode(encoded.ids, skip_special_tokens=True), "ab12 <note>")

    def test_settings_say_what_the_graph_is(self) -> None:
        folder = self.written(Form())
        config = json.loads((folder / "config.json").read_text())
        self.assertEqual(
            (config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]), (2, 2, 16)
        )
        self.assertEqual((config["max_position_embeddings"], config["rms_norm_eps"]), (64, 1e-5))
        self.assertFalse(config["tie_word_embeddings"])
        tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
        self.assertEqual(tokenizer_config["eos_token"], "<|im_end|>")
        self.assertEqual(tokenizer_config["chat_template"], "{{ messages }}")
        generation = json.loads((folder / "generation_config.json").read_text())
        self.assertEqual(generation["eos_token_id"], [writer.EOS, writer.END_OF_DOCUMENT])

    def test_genai_config_is_written_only_where_genai_can_run_the_graph(self) -> None:
        self.assertFalse((self.written(Form("gqa", "fp32", "last")) / "genai_config.json").exists())
        self.assertFalse((self.written(Form("mha", "fp32", "all")) / "genai_config.json").exists())
        genai = json.loads((self.written(Form("gqa", "fp32", "all")) / "genai_config.json").read_text())
        self.assertEqual(genai["model"]["decoder"]["head_size"], 16)

    def test_unknown_splitting_rules_are_refused(self) -> None:
        with self.assertRaisesRegex(GgufError, "pre-tokenizer 'unheard-of' is not known"):
            self.written(Form(), {"tokenizer.ggml.pre": "unheard-of"})

    @unittest.skipUnless(
        (checkout.PREPARED / "models" / "smollm2-135m-instruct-int8").exists(), "needs: prepare.py model"
    )
    def test_the_prepared_tokenizer_matches_golden_prompts_and_gives_texts_back(self) -> None:
        tokenizer = Tokenizer.from_file(
            str(checkout.PREPARED / "models" / "smollm2-135m-instruct-int8" / "tokenizer.json")
        )
        for case in json.loads(checkout.GOLDEN.read_text())["cases"]:
            self.assertEqual(
                tokenizer.encode(case["prompt"], add_special_tokens=False).ids, case["prompt_token_ids"]
            )
            self.assertEqual(tokenizer.decode(case["token_ids"], skip_special_tokens=False), case["text"])
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            self.assertEqual(tokenizer.decode(ids, skip_special_tokens=False), text)


if __name__ == "__main__":
    unittest.main()
