"""Iterative DPO on Llama-3-70B-Instruct on 256 chips of TPU v5p (Rafailov et al. 2023, arXiv 2305.18290).

One pair a prompt, drawn i.i.d. from its answers and labelled with the oracle's probability, as in `iter_ipo_llama3_8b`.

jaxalign plan configs/dpo_llama3_70b_v5p_256.py
tpu/launch.sh configs/dpo_llama3_70b_v5p_256.py \\
    --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/dpo_llama3_70b

What `jaxalign plan` printed before it gave ranges (2026-11-22, jax 0.10.2, libtpu 0.0.42.1; no TPU ran):

    v5p:4x8x8: 256 chips, mesh data=4 fsdp=16 tensor=4; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip    arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train             14.39        20.65     0.07    4.11  39.22    59.0 %   0.00       131 s
    logp               4.11         3.02     0.02    0.00   7.15    92.5 %   0.00        41 s
    rollout            4.11        40.28     0.16    0.00  44.56    53.5 %   0.00        94 s

    a call          ms  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train        3,799            404  50.1 % 59.7 %       1041.0       210,218             0
    logp           773          1,988  61.6 % 62.0 %        219.7        54,344             0
    rollout     29,139            351  13.0 % 13.2 %       1761.4       263,870             0

    whole run: 1.5 h, 376 chip-hours (471 train, 0 logp, 120 rollout; rows all of the longest length; without
        judging and evaluation)

    fits, with at least 5 % of the memory free
"""

import dataclasses

from iter_ipo_llama3_8b_v5p_64 import experiment as small

from jaxalign.losses.dpo import DPO
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import LLAMA3_70B
from jaxalign.training.step import Fit

experiment = dataclasses.replace(
    small,
    model=Pretrained("models/llama3-70b-instruct", compute_dtype="bfloat16", shape=LLAMA3_70B),
    loss=DPO(beta=0.1),
    fit=Fit(batch_size=128, checkpoint_every=50),
    placement=dataclasses.replace(
        small.placement,
        topology="v5p:4x8x8",
        mesh=MeshShape(data=4, fsdp=16, tensor=4),
        remat="full",
        score_batch_size=128,
    ),
)
