"""COMAL on Qwen2.5-7B-Instruct on 64 chips of TPU v6e: `comal_llama3_8b_v5p_64` in a third of the memory.

jaxalign plan configs/comal_qwen25_7b_v6e_64.py
tpu/launch.sh configs/comal_qwen25_7b_v6e_64.py --workdir gs://BUCKET/comal_qwen25_7b
"""

import dataclasses

from comal_llama3_8b_v5p_64 import experiment as on_v5p

from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import QWEN25_7B

experiment = dataclasses.replace(
    on_v5p,
    model=Pretrained("models/qwen2.5-7b-instruct", compute_dtype="bfloat16", remat="full", shape=QWEN25_7B),
    topology="v6e:8x8",
)
