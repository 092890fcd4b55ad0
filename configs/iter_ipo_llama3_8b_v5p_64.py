"""Iterative IPO on Llama-3-8B-Instruct on 64 chips of TPU v5p (Azar et al. 2023, arXiv 2310.12036).

The anchor moves with every iteration, so that there is one reference and not two. One pair a prompt, drawn i.i.d. from
its answers: in expectation multiplicative weights, whose last iterate circles where the Nash policy is mixed.

    jaxalign plan configs/iter_ipo_llama3_8b_v5p_64.py
    tpu/launch.sh configs/iter_ipo_llama3_8b_v5p_64.py \\
        --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/iter_ipo_llama3_8b --data gs://BUCKET/inputs \\
        --model.path /data/llama3-8b-instruct --feedback.prompts.path /data/ultrafeedback_prompts.jsonl

What `jaxalign plan` prints but for its legend and collectives (2026-11-30, jax 0.10.2, libtpu 0.0.42.1):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip             arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                       6.55        23.26     0.06    1.87  31.74    66.8 %   0.00       327 s
    logp                        1.87         2.67     0.01    0.00   4.56    95.2 %   0.00       111 s
    rollout                     1.87        22.20     0.09    0.00  24.17    74.8 %   0.00       272 s
    evaluation/rollout          1.87        26.93     0.08    0.00  28.88    69.8 %   0.00       261 s

    a call             ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train                    918     1,307          4,700  63.3 % 66.2 %        397.2        55,345             0
    logp                     422       632         19,443  65.5 % 66.2 %        192.0        13,510             0
    rollout                1,739    16,634          2,462   9.9 % 10.2 %        775.8        26,899             0
    evaluation/rollout     2,765    21,189          1,933  12.7 % 12.8 %       1246.4        27,141             0

    whole run: 0.2 to 0.7 h, 12 to 48 chip-hours (471 train, 0 logp, 120 rollout, 4 evaluation/rollout; rows all
        of the longest length; without judges that have no weights)
    Times are estimates of the compiled program; no TPU ran.

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
