"""COMAL on Qwen2.5-7B-Instruct on 64 chips of TPU v6e: `comal_llama3_8b_v5p_64` in a third of the memory.

jaxalign plan configs/comal_qwen25_7b_v6e_64.py
tpu/launch.sh configs/comal_qwen25_7b_v6e_64.py \\
    --cluster C --zone Z --image IMAGE:TAG --workdir gs://BUCKET/comal_qwen25_7b

What `jaxalign plan` printed before it gave ranges (2026-11-22, jax 0.10.2, libtpu 0.0.42.1; no TPU ran):

    v6e:8x8: 64 chips, mesh data=4 fsdp=16; 31.25 GiB of memory a chip
    rows of 3072 tokens (prompt 1024, two responses of 1024)

    GiB a chip    arguments  temporaries  outputs  beside   peak  headroom   host   compiled in
    train              7.10         9.22     0.08    1.77  18.18    41.8 %   0.00       327 s
    logp               1.77         3.62     0.01    0.00   5.40    82.7 %   0.00       121 s
    rollout            1.77        19.57     0.08    0.00  21.43    31.4 %   0.00       221 s

    a call          ms  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip
    train        1,348          4,558  35.7 % 41.4 %        511.9        65,807             0
    logp           502         24,488  38.4 % 38.7 %        178.4        12,722             0
    rollout     14,829          2,762   5.2 %  5.3 %        721.8        25,338             0

    whole run: 2.0 h, 129 chip-hours (1,422 train, 0 logp, 360 rollout; rows all of the longest length; without
        judging and evaluation)

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
