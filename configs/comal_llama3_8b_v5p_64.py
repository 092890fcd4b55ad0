"""COMAL on Llama-3-8B-Instruct on 64 chips of TPU v5p: `comal_llama3_8b` with a mesh, and both references live.

jaxalign plan configs/comal_llama3_8b_v5p_64.py
tpu/launch.sh configs/comal_llama3_8b_v5p_64.py \\
    --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/comal_llama3_8b

What `jaxalign plan` printed before it gave ranges (2026-11-22, jax 0.10.2, libtpu 0.0.42.1; no TPU ran):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip    arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train              7.48        26.84     0.08    1.87  36.27    62.1 %   0.00       153 s
    logp               1.87         4.22     0.01    0.00   6.10    93.6 %   0.00        38 s
    rollout            1.87        26.81     0.08    0.00  28.75    70.0 %   0.00        70 s

    a call          ms  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train        1,849          3,323  56.0 % 57.8 %        490.3        68,809             0
    logp           625         19,649  66.2 % 66.9 %        192.0        13,510             0
    rollout     19,621          2,088   8.4 %  8.6 %        775.8        26,899             0

    whole run: 2.7 h, 172 chip-hours (1,422 train, 0 logp, 360 rollout; rows all of the longest length; without
        judging and evaluation)

    fits, with at least 5 % of the memory free
"""

import dataclasses

from comal_llama3_8b import FEEDBACK as ON_ANY
from comal_llama3_8b import experiment as comal

from jaxalign.machine import Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import LLAMA3_8B
from jaxalign.references.live import Live
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.samplers import TopP
from jaxalign.training.step import Fit

FEEDBACK = dataclasses.replace(
    ON_ANY,
    rollout=Sample(samples=5, max_tokens=1024, max_prompt_tokens=1024, sampler=TopP(p=0.95, temperature=0.8)),
)

experiment = dataclasses.replace(
    comal,
    model=Pretrained("models/llama3-8b-instruct", compute_dtype="bfloat16", shape=LLAMA3_8B),
    reference=Live(),
    feedback=FEEDBACK,
    fit=Fit(batch_size=128, checkpoint_every=100),
    evaluation=dataclasses.replace(
        comal.evaluation,
        rollout=Sample(samples=1, max_tokens=1024, max_prompt_tokens=1024, sampler=TopP(p=0.95, temperature=0.7)),
    ),
    placement=Placement(
        topology="v5p:4x4x4",
        mesh=MeshShape(data=4, fsdp=16),
        remat="dots",
        score_batch_size=256,
        rollout_rows=2560,
    ),
)
