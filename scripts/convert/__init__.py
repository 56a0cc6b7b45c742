"""GGUF to ONNX without torch or transformers: a llama-shaped GGUF file becomes a Hugging Face style model
folder.

    MODEL.gguf → gguf → llama ─┬→ decoder (attention, graph, quantize) → model.onnx, model.onnx.data
                               └→ hub_files                            → config.json, tokenizer.json, …

Needs numpy and onnx. `python -m convert --help` shows the graph shapes.
"""
