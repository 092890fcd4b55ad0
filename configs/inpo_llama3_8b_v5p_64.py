"""INPO on Llama-3-8B-Instruct on 64 chips of TPU v5p (Zhang et al. 2024, arXiv 2407.00617): the anchor stays the base.

The paper's three iterations of 20,000 prompts, batches of 128 pairs, best against worst. Its eta of 0.005 and a tau of
a third of it; the oracle is the built-in panel in place of their 8B preference model.

    jaxalign plan configs/inpo_llama3_8b_v5p_64.py
    tpu/launch.sh configs/inpo_llama3_8b_v5p_64.py --workdir gs://BUCKET/inpo_llama3_8b
"""

import dataclasses

from comal_llama3_8b_v5p_64 import experiment as comal

from jaxalign.losses.inpo import INPO

experiment = dataclasses.replace(
    comal, loss=INPO(eta=0.005, tau=0.005 / 3), iterations=3, prompts_per_iteration=20_000, swap_every=None
)
