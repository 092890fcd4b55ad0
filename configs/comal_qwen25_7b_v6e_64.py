"""COMAL on Qwen2.5-7B-Instruct on 64 chips of TPU v6e: `comal_llama3_8b_v5p_64` in a third of the memory.

jaxalign plan configs/comal_qwen25_7b_v6e_64.py
tpu/launch.sh configs/comal_qwen25_7b_v6e_64.py \\
    --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/comal_qwen25_7b --data gs://BUCKET/inputs \\
    --model.path /data/qwen2.5-7b-instruct --feedback.prompts.path /data/ultrafeedback_prompts.jsonl

What `jaxalign plan` prints but for its legend and collectives (2026-11-30, jax 0.10.2, libtpu 0.0.42.1):

    v6e:8x8: 64 chips, mesh data=4 fsdp=16; 31.25 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip             arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train                       7.10         8.04     0.06    1.77  16.98    45.7 %   0.00       495 s
    logp                        1.77         2.61     0.01    1.77   6.17    80.2 %   0.00       162 s
    answers                     1.78         3.76     0.01    1.77   7.32    76.6 %   0.00       337 s
    rollout                     1.77        17.22     0.11    0.00  19.10    38.9 %   0.00       529 s
    evaluation/rollout          1.77        19.11     0.10    0.00  20.98    32.9 %   0.00       331 s

    a call             ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train                    690     1,278          4,806  37.7 % 43.8 %        514.1        65,807             0
    logp                     202       444         27,694  43.4 % 43.8 %        178.4        12,722             0
    answers                  419       937         26,242  43.4 % 43.8 %        376.6        12,802             0
    rollout                1,993    13,529          3,027   5.7 %  5.8 %        721.8        25,338             0
    evaluation/rollout     2,211    16,136          2,538   7.7 %  7.8 %       1159.5        25,550             0

    whole run: 0.6 to 2.1 h, 35 to 134 chip-hours (1,422 train, 0 logp, 360 rollout, 600 answers, 19
        evaluation/rollout; rows all of the longest length; without judges that have no weights)
    Times are estimates of the compiled program; no TPU ran.

    fits, with at least 5 % of the memory free
"""

import dataclasses

from comal_llama3_8b_v5p_64 import experiment as on_v5p

from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import QWEN25_7B

experiment = dataclasses.replace(
    on_v5p,
    model=Pretrained("models/qwen2.5-7b-instruct", compute_dtype="bfloat16", shape=QWEN25_7B),
    placement=dataclasses.replace(on_v5p.placement, topology="v6e:8x8", remat="full"),
)
