"""llama.cpp's server on a tiny Llama: a real process behind a real socket.

    python -m tests.support.llama_server MODEL HOST PORT [SLOTS]

MODEL is a Hugging Face directory; its weights are written as GGUF into a folder of their own first. The tokenizer goes
along by its tokens alone: prompts come as ids.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp
from safetensors.torch import load_file

Array = np.ndarray[Any, Any]
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: Path, path: Path) -> None:
    """The model in fp32."""
    config = json.loads((model / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, model, config["vocab_size"])
    for name, tensor in load_file(model / "model.safetensors").items():
        weights = tensor.float().numpy()
        key, count = _renamed(name), {"q": heads, "k": kv_heads}
        for part, number in count.items():
            weights = _interleaved(weights, number) if name.endswith(f"{part}_proj.weight") else weights
        writer.add_tensor(key, np.ascontiguousarray(weights, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path, size: int) -> None:
    spec = json.loads((model / "tokenizer.json").read_text())
    special = {token["id"] for token in spec["added_tokens"] if token["special"]}
    names = {token: name for name, token in spec["model"]["vocab"].items()}
    names |= {token["id"]: token["content"] for token in spec["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(token, f"<unused{token}>") for token in range(size)])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in special else kinds.NORMAL for token in range(size)])
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    ends = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    writer.add_eos_token_id(ends[0] if isinstance(ends, list) else ends)
    writer.add_add_bos_token(False)


def _renamed(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, part = name.split(".", 3)
    return f"blk.{layer}.{PARTS[part.removesuffix('.weight')]}.weight"


def _interleaved(weights: Array, heads: int) -> Array:
    """Rotary pairs as neighbours, as llama.cpp has them; Hugging Face keeps them half a head apart."""
    return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


def serve(path: Path, host: str, port: int, slots: int) -> None:
    """Serve a GGUF file until the process ends."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames, params.port = [host], port
    params.n_parallel, params.n_ctx = slots, slots * 256
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup, params.verbosity = False, -1
    server = xllamacpp.Server(params)
    print(f"listening at {server.listening_address}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(Path(sys.argv[1]), Path(folder) / "model.gguf")
        serve(Path(folder) / "model.gguf", sys.argv[2], int(sys.argv[3]), int((sys.argv[4:] or ["1"])[0]))
