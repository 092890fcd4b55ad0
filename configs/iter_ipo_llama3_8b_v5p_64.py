"""Iterative IPO on Llama-3-8B-Instruct on 64 chips of TPU v5p (Azar et al. 2023, arXiv 2310.12036).

The anchor moves with every iteration, so that there is one reference and not two. One pair a prompt, drawn i.i.d. from
its answers: in expectation multiplicative weights, whose last iterate circles where the Nash policy is mixed.

    jaxalign plan configs/iter_ipo_llama3_8b_v5p_64.py
    tpu/launch.sh configs/iter_ipo_llama3_8b_v5p_64.py \\
        --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/iter_ipo_llama3_8b

What `jaxalign plan` printed before it gave ranges (2026-11-22, jax 0.10.2, libtpu 0.0.42.1; no TPU ran):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip    arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train              6.55        26.84     0.06    1.87  35.32    63.1 %   0.00       158 s
    logp               1.87         4.22     0.01    0.00   6.10    93.6 %   0.00        35 s
    rollout            1.87        26.81     0.08    0.00  28.75    70.0 %   0.00       111 s

    a call          ms  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train        1,540          3,990  53.8 % 55.8 %        394.3        55,345             0
    logp           625         19,649  66.2 % 66.9 %        192.0        13,510             0
    rollout     19,621          2,088   8.4 %  8.6 %        775.8        26,899             0

    whole run: 0.9 h, 55 chip-hours (471 train, 0 logp, 120 rollout; rows all of the longest length; without judging
        and evaluation)

    fits, with at least 5 % of the memory free
"""

import dataclasses

from comal_llama3_8b_v5p_64 import FEEDBACK
from inpo_llama3_8b_v5p_64 import experiment as inpo

from jaxalign.losses.ipo import IPO

experiment = dataclasses.replace(
    inpo,
    feedback=dataclasses.replace(FEEDBACK, prompts_per_iteration=20_000),
    loss=IPO(tau=0.005),
    swap_every=1,
)
