"""The side files of a model folder, as Hugging Face tools write them: settings, tokenizer, chat template.

The gateway and its peers read the same files. `genai_config.json` is written only for graphs that
onnxruntime-genai can run: it does not know the input logits_index.
"""

import json
from pathlib import Path
from typing import Any

from convert.decoder import Form
from convert.gguf import GgufError
from convert.llama import Shape, Tokenizer

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

# How text is cut before merging, by GGUF's name of the rules.
_PRE_TOKENIZERS = {
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    "gpt-2": [_BYTE_LEVEL],
}

# Where a document of the training text ends; GGUF names the end of a turn only.
END_OF_DOCUMENT = "<|endoftext|>"


def write_hub_files(folder: Path, shape: Shape, tokenizer: Tokenizer, form: Form, tied: bool) -> None:
    """Write all side files of a llama-shaped model."""
    _write(folder / "config.json", config(shape, tokenizer, tied))
    _write(
        folder / "generation_config.json",
        {"bos_token_id": tokenizer.bos, "eos_token_id": end_tokens(tokenizer), "pad_token_id": tokenizer.pad},
    )
    _write(folder / "tokenizer.json", tokenizer_json(tokenizer), indent=None)
    _write(folder / "tokenizer_config.json", tokenizer_config(shape.context_tokens, tokenizer))
    if form.attention == "gqa" and form.logits == "all":
        _write(folder / "genai_config.json", genai_config(shape, tokenizer))


def end_tokens(tokenizer: Tokenizer) -> list[int]:
    """Tokens that end a text: that of a turn of a chat, and that of a document, which plain texts end with."""
    documents = [token for token in tokenizer.control_tokens if tokenizer.tokens[token] == END_OF_DOCUMENT]
    return [tokenizer.eos, *(token for token in documents if token != tokenizer.eos)]


def config(shape: Shape, tokenizer: Tokenizer, tied: bool) -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": tied,
        "vocab_size": shape.vocabulary_size,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
        "use_cache": True,
        "torch_dtype": "float32",
    }


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json, for the `tokenizers` library."""
    if tokenizer.pre_tokenizer not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        raise GgufError(f"the pre-tokenizer '{tokenizer.pre_tokenizer}' is not known (known: {known})")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token, "content": tokenizer.tokens[token], **_added_token(tokenizer, token)}
            for token in sorted([*tokenizer.control_tokens, *tokenizer.user_tokens])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[tokenizer.pre_tokenizer]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: token for token, text in enumerate(tokenizer.tokens)},
            "merges": [merge.split(" ") for merge in tokenizer.merges],
        },
    }


def tokenizer_config(context_tokens: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer_config.json, with the chat template."""

    def text(token: int | None) -> str | None:
        return None if token is None else tokenizer.tokens[token]

    return {
        "add_prefix_space": False,
        "bos_token": text(tokenizer.bos),
        "eos_token": text(tokenizer.eos),
        "pad_token": text(tokenizer.pad),
        "unk_token": text(tokenizer.unknown),
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            str(token): {"content": tokenizer.tokens[token], **_added_token(tokenizer, token)}
            for token in sorted([*tokenizer.control_tokens, *tokenizer.user_tokens])
        },
        **({"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}),
    }


def genai_config(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    """genai_config.json, which onnxruntime-genai reads in place of config.json."""
    return {
        "model": {
            "type": "llama",
            "context_length": shape.context_tokens,
            "vocab_size": shape.vocabulary_size,
            "bos_token_id": tokenizer.bos,
            "eos_token_id": tokenizer.eos,
            "pad_token_id": tokenizer.pad,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": shape.head_size,
                "hidden_size": shape.hidden_size,
                "num_attention_heads": shape.heads,
                "num_hidden_layers": shape.layers,
                "num_key_value_heads": shape.key_value_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "early_stopping": True,
            "max_length": shape.context_tokens,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }


def _added_token(tokenizer: Tokenizer, token: int) -> dict[str, bool]:
    return {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": token in tokenizer.control_tokens,
    }


def _write(path: Path, content: dict[str, Any], indent: int | None = 2) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
