"""Convert a GGUF file (llama architecture; F32, F16, Q4_0, Q4_1, Q8_0) to a model folder with an ONNX graph.

    PYTHONPATH=scripts python -m convert MODEL.gguf OUT [--attention FORM] [--weights PRECISION] [--logits
    WHICH]

OUT gets model.onnx, model.onnx.data, config.json, generation_config.json, tokenizer.json,
tokenizer_config.json, and genai_config.json for graphs that onnxruntime-genai can run. The defaults are what
the gateway serves best.
"""

import argparse
import sys
from pathlib import Path

from convert.calibrate import calibration_tokens, observe
from convert.decoder import ATTENTION_FORMS, LOGITS_FORMS, Form, write_decoder
from convert.gguf import GgufFile
from convert.hub_files import write_hub_files
from convert.linear import PRECISIONS
from convert.llama import read_llama
from convert.smooth import smooth


def main(command_line: list[str] | None = None) -> int:
    """Returns the exit status; without `command_line` it is the process's own."""
    parser = argparse.ArgumentParser(
        prog="python -m convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path, metavar="MODEL.gguf")
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument(
        "--attention",
        choices=ATTENTION_FORMS,
        default="gqa",
        help="gqa: onnxruntime-genai's graph; mha, merged, none: optimum's with a cache, with both "
        "branches, without a cache (default: gqa)",
    )
    parser.add_argument("--weights", choices=PRECISIONS, default="w8a8", help="default: w8a8")
    parser.add_argument(
        "--logits",
        choices=LOGITS_FORMS,
        default="last",
        help="last: only where the input logits_index says (default); all: of every position",
    )
    arguments = parser.parse_args(command_line)
    if arguments.weights == "w8a8" and arguments.attention != "gqa":
        parser.error(f"--weights w8a8 needs --attention gqa; with {arguments.attention} use int8 or fp32")
    form = Form(arguments.attention, arguments.weights, arguments.logits)
    try:
        shape, weights, tokenizer = read_llama(GgufFile(arguments.gguf))
        arguments.folder.mkdir(parents=True, exist_ok=True)
        name = "decoder_model_merged.onnx" if form.attention == "merged" else "model.onnx"
        tied = weights.tied
        if form.precision == "w8a8":
            weights = smooth(shape, weights, observe(shape, weights, calibration_tokens(tokenizer)))
        write_decoder(arguments.folder / name, shape, weights, form)
        write_hub_files(arguments.folder, shape, tokenizer, form, tied)
    except (ValueError, OSError) as error:
        print(f"convert: error: {arguments.gguf}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
