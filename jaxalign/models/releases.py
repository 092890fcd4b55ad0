"""Shapes of released models, for configs whose weights are elsewhere: `jaxalign plan` needs no more of a model.

From the config.json of each release; a directory of weights that says otherwise is refused when it is opened.
"""

import dataclasses

from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.families import llama, qwen2
from jaxalign.models.rope import Llama3, Rope

LLAMA3_8B = DecoderConfig(
    family=llama.FAMILY,
    layers=32,
    width=4096,
    mlp=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128256,
    ropes=(Rope(base=5e5),),
    tied=False,
    context=8192,
)
"""Meta-Llama-3-8B(-Instruct): 8,030,261,248 parameters (arXiv 2407.21783)."""

LLAMA31_8B = dataclasses.replace(
    LLAMA3_8B, ropes=(Rope(base=5e5, scaling=Llama3(factor=8.0, low=1.0, high=4.0, context=8192)),), context=131072
)
"""Llama-3.1-8B(-Instruct): the same parameters, trained on to 128k tokens (arXiv 2407.21783)."""

LLAMA3_70B = dataclasses.replace(LLAMA3_8B, layers=80, width=8192, mlp=28672, heads=64)
"""Meta-Llama-3-70B(-Instruct): 70,553,706,496 parameters (arXiv 2407.21783)."""

QWEN2_1P5B = DecoderConfig(
    family=qwen2.FAMILY,
    layers=28,
    width=1536,
    mlp=8960,
    heads=12,
    kv_heads=2,
    head_dim=128,
    vocab=151936,
    ropes=(Rope(base=1e6),),
    biased=True,
    norm_eps=1e-6,
    tied=True,
    context=32768,
)
"""Qwen2-1.5B-Instruct: 1,543,714,304 parameters (arXiv 2407.10671)."""

QWEN25_7B = dataclasses.replace(QWEN2_1P5B, width=3584, mlp=18944, heads=28, kv_heads=4, vocab=152064, tied=False)
"""Qwen2.5-7B-Instruct: 7,615,616,512 parameters (arXiv 2412.15115)."""
