"""Makes families/*: small random checkpoints of transformers, and the scores that transformers computes with them.

    python tests/goldens/make_families.py

needs torch and transformers, on the CPU in fp32. Each folder holds config.json, model.safetensors and the golden,
golden.safetensors: tokens [n s], logits [n s v] and log-probs of every next token, logps [n s-1]. Sizes are such that
every feature is at work: rows are longer than the windows, caps are of the size of what they cap, RoPE scalings change
the angles of these very positions, norms and biases are random.
"""

import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).with_name("families")
ROWS, LENGTH = 2, 28

SIZES = {
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

FAMILIES = {
    "llama": transformers.LlamaConfig(
        **SIZES, num_hidden_layers=2, head_dim=8, rope_parameters=LLAMA3, tie_word_embeddings=False
    ),
    "llama_linear": transformers.LlamaConfig(
        **SIZES,
        num_hidden_layers=2,
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5},
        tie_word_embeddings=True,
    ),
    "mistral": transformers.MistralConfig(**SIZES, num_hidden_layers=2, head_dim=8, sliding_window=6),
    "qwen2": transformers.Qwen2Config(
        **SIZES, num_hidden_layers=3, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "qwen3": transformers.Qwen3Config(**SIZES, num_hidden_layers=2, head_dim=8, tie_word_embeddings=True),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        **SIZES,
        num_hidden_layers=2,
        head_dim=8,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=16,
        norm_topk_prob=True,
    ),
    "gemma2": transformers.Gemma2Config(
        **SIZES,
        num_hidden_layers=3,
        head_dim=8,
        query_pre_attn_scalar=6,
        sliding_window=6,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3": transformers.Gemma3TextConfig(
        **SIZES,
        num_hidden_layers=4,
        head_dim=8,
        query_pre_attn_scalar=12,
        sliding_window=6,
        layer_types=[LOCAL, LOCAL, GLOBAL, LOCAL],
        rope_parameters={
            GLOBAL: {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
            LOCAL: {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "smollm3": transformers.SmolLM3Config(**SIZES, num_hidden_layers=4, no_rope_layer_interval=2),
}


def randomised(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """A model of `config` whose scores have a deviation of about 1."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.copy_(torch.randn_like(weights) * (0.25 if "embed" in name else weights.shape[-1] ** -0.5))
            else:
                weights.add_(0.4 * torch.randn_like(weights))
    return model


def main() -> None:
    tokens = torch.randint(0, SIZES["vocab_size"], (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    for name, config in FAMILIES.items():
        model = randomised(config)
        with torch.no_grad():
            logits = model(tokens).logits
        logps = torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[..., 0]
        folder = FOLDER / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file({"tokens": tokens.int(), "logits": logits, "logps": logps}, folder / "golden.safetensors")
        print(f"{name}: deviation of the scores {logits.std():.2f}, mean log-prob {logps.mean():.2f}")


if __name__ == "__main__":
    main()
