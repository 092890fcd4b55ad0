"""INPO on Llama-3-8B-Instruct on 64 chips of TPU v5p (Zhang et al. 2024, arXiv 2407.00617): the anchor stays the base.

The paper's three iterations of 20,000 prompts, best against worst (there of eight answers). Five answers, batches of
128 pairs, an eta of 0.005 and a tau of a third of it are ours; the oracle is the built-in panel in place of their 8B
preference model.

The paper's pairs are no i.i.d. draws from the policy, of which its theorem speaks: best against worst, for certain,
solves another game, that of who beats whom, or circles (BENCHMARKS.md has its fixed points), and nothing is certified
of it. Exact steps of 1/eta = 200 would settle on games that rotate slower than omega .0037 only.

    jaxalign plan configs/inpo_llama3_8b_v5p_64.py
    tpu/launch.sh configs/inpo_llama3_8b_v5p_64.py \\
        --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/inpo_llama3_8b

What `jaxalign plan` printed before it gave ranges (2026-11-22, jax 0.10.2, libtpu 0.0.42.1; no TPU ran):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip    arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train              7.48        26.84     0.08    1.87  36.27    62.1 %   0.00       102 s
    logp               1.87         4.22     0.01    0.00   6.10    93.6 %   0.00        97 s
    rollout            1.87        26.81     0.08    0.00  28.75    70.0 %   0.00       116 s

    a call          ms  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train        1,849          3,323  56.0 % 57.8 %        490.3        68,809             0
    logp           625         19,649  66.2 % 66.9 %        192.0        13,510             0
    rollout     19,621          2,088   8.4 %  8.6 %        775.8        26,899             0

    whole run: 0.9 h, 57 chip-hours (471 train, 0 logp, 120 rollout; rows all of the longest length; without judging
        and evaluation)

    fits, with at least 5 % of the memory free
"""

import dataclasses

from comal_llama3_8b_v5p_64 import FEEDBACK
from comal_llama3_8b_v5p_64 import experiment as comal

from jaxalign.losses.inpo import INPO
from jaxalign.pairs import BestWorst

experiment = dataclasses.replace(
    comal,
    feedback=dataclasses.replace(FEEDBACK, pairing=BestWorst(), prompts_per_iteration=20_000),
    loss=INPO(eta=0.005, tau=0.005 / 3),
    iterations=3,
    swap_every=None,
)
