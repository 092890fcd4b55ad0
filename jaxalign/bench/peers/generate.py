"""Seconds of sampling by transformers' `generate` or by vLLM. Run by the Python that has them: it imports nothing of
jaxalign.

    python generate.py transformers|vllm '{"model": DIR, "prompts": 64, "samples": 4, "prompt_tokens": 256,
                                           "response_tokens": 256, "dtype": "bfloat16", "rounds": 2}'

Prompts are random tokens; every answer has all its tokens, drawn at temperature 1. The answer, the last line: the
median of the seconds of the rounds behind a first one.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def by_transformers(asked: dict[str, Any]) -> tuple[Callable[[], Any], str]:
    """All answers to all prompts, in one batch."""
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, asked["dtype"])
    model = transformers.AutoModelForCausalLM.from_pretrained(asked["model"], dtype=dtype).to(device).eval()
    prompts = torch.from_numpy(random_prompts(asked, model.config.vocab_size)).to(device)

    def sample() -> Any:
        with torch.inference_mode():
            return model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                top_k=0,
                num_return_sequences=asked["samples"],
                max_new_tokens=asked["response_tokens"],
                min_new_tokens=asked["response_tokens"],
                pad_token_id=0,
            )

    return sample, f"transformers {transformers.__version__}, torch {torch.__version__} {device}"


def by_vllm(asked: dict[str, Any]) -> tuple[Callable[[], Any], str]:
    """vLLM as it comes, on one GPU."""
    import vllm

    with open(f"{asked['model']}/config.json") as file:
        vocabulary = json.load(file)["vocab_size"]
    model = vllm.LLM(
        model=asked["model"],
        dtype=asked["dtype"],
        skip_tokenizer_init=True,
        max_model_len=asked["prompt_tokens"] + asked["response_tokens"],
        disable_log_stats=True,
    )
    how = vllm.SamplingParams(
        n=asked["samples"], temperature=1.0, max_tokens=asked["response_tokens"], ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": row.tolist()} for row in random_prompts(asked, vocabulary)]
    return lambda: model.generate(prompts, how, use_tqdm=False), f"vllm {vllm.__version__}, torch {torch.__version__}"


def random_prompts(asked: dict[str, Any], vocabulary: int) -> np.ndarray:
    """Token ids [b p]."""
    return np.random.default_rng(0).integers(3, vocabulary, (asked["prompts"], asked["prompt_tokens"]))


def main(side: str, asked: dict[str, Any]) -> None:
    """Samples, and prints what was measured."""
    sample, backend = {"transformers": by_transformers, "vllm": by_vllm}[side](asked)
    seconds = []
    for _ in range(asked["rounds"] + 1):
        began = time.perf_counter()
        sample()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"backend": backend, "seconds": statistics.median(seconds[1:])}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
