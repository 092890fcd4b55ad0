"""Iterative DPO on Llama-3-70B-Instruct on 256 chips of TPU v5p (Rafailov et al. 2023, arXiv 2305.18290).

One pair a prompt, drawn i.i.d. from its answers and labelled with the oracle's probability, as in `iter_ipo_llama3_8b`.

jaxalign plan configs/dpo_llama3_70b_v5p_256.py
tpu/launch.sh configs/dpo_llama3_70b_v5p_256.py \\
    --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/dpo_llama3_70b --data gs://BUCKET/inputs \\
    --model.path /data/llama3-70b-instruct --feedback.prompts.path /data/ultrafeedback_prompts.jsonl

What `jaxalign plan` prints but for its legend and collectives (2026-11-30, jax 0.10.2, libtpu 0.0.42.1):

    v5p:4x8x8: 256 chips, mesh data=4 fsdp=16 tensor=4; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip             arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                      14.39        19.30     0.06    4.11  37.87    60.4 %   0.00       304 s
    logp                        4.11         3.03     0.02    0.00   7.15    92.5 %   0.00        71 s
    rollout                     4.11        37.38     0.18    0.00  41.68    56.5 %   0.00       276 s
    evaluation/rollout          4.11        41.18     0.18    0.00  45.47    52.5 %   0.00       319 s

    a call             ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train                  2,859     3,621            424  52.6 % 62.8 %       1044.6       210,218             0
    logp                     604       723          2,124  65.9 % 66.2 %        219.7        54,344             0
    rollout                5,094    29,079            352  13.0 % 13.2 %       1761.4       263,988             0
    evaluation/rollout     8,227    34,069            301  18.4 % 18.5 %       2899.4       388,117             0

    whole run: 0.6 to 1.5 h, 142 to 379 chip-hours (471 train, 0 logp, 120 rollout, 4 evaluation/rollout; rows
        all of the longest length; without judges that have no weights)
    Times are estimates of the compiled program; no TPU ran.

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
