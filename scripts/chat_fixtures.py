#!/usr/bin/env python3
"""Write what `transformers` makes of chat templates, for the tests that compare ours with it.

    chat_fixtures.py [--trl FOLDER]

reads tests/fixtures/chat/ (templates.json and templates/, cases.json, tools.json) and writes expected/NAME.json there:
for each case the prompt, the words of `raise_exception`, or that Python failed. The day is always the same one.

With --trl also templates whose licences are no open ones, out of the package `trl` that prepared/venv has, into FOLDER, in
the same form: they are compared and not kept.
"""

import argparse
import datetime
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_OFFLINE"] = "1"

import jinja2
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "chat"
NOW = datetime.datetime(2024, 11, 23, 4, 5, 6)
"""What the Rust tests take for the present."""

ELSEWHERE = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_1": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3_2": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
    "gemma3": ("<bos>", "<eos>"),
    "gemma4": ("<bos>", "<eos>"),
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "cohere2": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "lfm2": ("<|startoftext|>", "<|im_end|>"),
    "lfm2_2_5": ("<|startoftext|>", "<|im_end|>"),
    "nemotron_3_nano": ("<s>", "<|im_end|>"),
}
"""Templates of trl/chat_templates, with the tokens that begin and end a text."""


LANGUAGE_CASE = {"messages": [{"role": "system", "content": "Be <brief>."}, {"role": "user", "content": " Hi "}]}
"""The conversation of the templates in language.json; the Rust test has the same."""


class FixedDateTime(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        assert tz is None
        return NOW


def outcome(template: str, tokens: dict[str, str | None], case: dict, tools: dict) -> dict:
    """What `apply_chat_template` of a tokenizer with this template gives."""
    special = {name: token for name, token in tokens.items() if token is not None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **special)
    try:
        prompt = tokenizer.apply_chat_template(
            case["messages"],
            tools=tools[case["tools"]] if "tools" in case else None,
            chat_template=template,
            add_generation_prompt=case.get("add_generation_prompt", True),
            tokenize=False,
            **case.get("variables", {}),
        )
    except jinja2.exceptions.TemplateError as error:
        # `raise_exception` raises this class itself; what the sandbox or the language refuses is one of its kin.
        return {"refused": error.message} if type(error) is jinja2.exceptions.TemplateError else {"failed": str(error)}
    except Exception as error:  # noqa: BLE001 — whatever a template does to Python
        return {"failed": f"{type(error).__name__}: {error}"}
    return {"prompt": prompt}


def write(folder: Path, template: str, name: str, tokens: dict[str, str | None]) -> None:
    cases = json.loads((FIXTURES / "cases.json").read_text())
    tools = json.loads((FIXTURES / "tools.json").read_text())
    outcomes = {case["name"]: outcome(template, tokens, case, tools) for case in cases}
    (folder / "expected").mkdir(parents=True, exist_ok=True)
    text = json.dumps(outcomes, ensure_ascii=False, indent=1)
    (folder / "expected" / f"{name}.json").write_text(text + "\n")


def write_language() -> None:
    """What each small template of language.json makes of one conversation."""
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    sources = json.loads((FIXTURES / "language.json").read_text())
    outcomes = {source: outcome(source, tokens, LANGUAGE_CASE, {}) for source in sources}
    text = json.dumps(outcomes, ensure_ascii=False, indent=1)
    (FIXTURES / "expected-language.json").write_text(text + "\n")


def write_elsewhere(folder: Path) -> None:
    package = find_spec("trl")
    if package is None or package.origin is None:
        sys.exit("chat_fixtures.py: error: trl is not there: run `python3 scripts/prepare.py python-chat`")
    manifest = {}
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    for name, (bos, eos) in ELSEWHERE.items():
        template = (Path(package.origin).parent / "chat_templates" / f"{name}.jinja").read_text()
        manifest[name] = {"bos_token": bos, "eos_token": eos}
        (folder / "templates" / f"{name}.jinja").write_text(template)
        write(folder, template, name, manifest[name])
    (folder / "templates.json").write_text(json.dumps(manifest, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", type=Path, metavar="FOLDER")
    wanted = parser.parse_args()
    chat_template_utils.datetime = FixedDateTime
    for name, about in json.loads((FIXTURES / "templates.json").read_text()).items():
        template = (FIXTURES / "templates" / f"{name}.jinja").read_text()
        write(FIXTURES, template, name, {part: about[part] for part in ("bos_token", "eos_token")})
    write_language()
    if wanted.trl is not None:
        write_elsewhere(wanted.trl)


if __name__ == "__main__":
    main()
