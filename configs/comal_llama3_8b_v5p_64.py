"""COMAL on Llama-3-8B-Instruct on 64 chips of TPU v5p: `comal_llama3_8b` with a mesh, and both references live.

jaxalign plan configs/comal_llama3_8b_v5p_64.py
tpu/launch.sh configs/comal_llama3_8b_v5p_64.py \\
    --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/comal_llama3_8b --data gs://BUCKET/inputs \\
    --model.path /data/llama3-8b-instruct --feedback.prompts.path /data/ultrafeedback_prompts.jsonl

What `jaxalign plan` prints but for its legend and collectives (2026-11-30, jax 0.10.2, libtpu 0.0.42.1):

    v5p:4x4x4: 64 chips, mesh data=4 fsdp=16; 95.74 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip             arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                       7.48        23.27     0.07    1.87  32.69    65.9 %   0.00       440 s
    logp                        1.87         2.67     0.01    1.87   6.43    93.3 %   0.00       111 s
    answers                     1.87         3.29     0.01    1.87   7.04    92.6 %   0.00       132 s
    rollout                     1.87        22.20     0.09    0.00  24.17    74.8 %   0.00       272 s
    evaluation/rollout          1.87        26.93     0.08    0.00  28.88    69.8 %   0.00       261 s

    a call             ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train                  1,131     1,623          3,785  63.8 % 66.2 %        493.2        68,809             0
    logp                     422       632         19,443  65.5 % 66.2 %        192.0        13,510             0
    answers                  894     1,344         18,287  65.5 % 66.2 %        408.3        13,601             0
    rollout                1,739    16,634          2,462   9.9 % 10.2 %        775.8        26,899             0
    evaluation/rollout     2,765    21,189          1,933  12.7 % 12.8 %       1246.4        27,141             0

    whole run: 0.8 to 2.6 h, 50 to 169 chip-hours (1,422 train, 0 logp, 360 rollout, 600 answers, 19
        evaluation/rollout; rows all of the longest length; without judges that have no weights)
    Times are estimates of the compiled program; no TPU ran.

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
