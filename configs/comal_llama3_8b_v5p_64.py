"""COMAL on Llama-3-8B-Instruct on 64 chips of TPU v5p: `comal_llama3_8b` with a mesh, and both references live.

jaxalign plan configs/comal_llama3_8b_v5p_64.py
tpu/launch.sh configs/comal_llama3_8b_v5p_64.py --workdir gs://BUCKET/comal_llama3_8b
"""

import dataclasses

from comal_llama3_8b import experiment as comal

from jaxalign.models.pretrained import Pretrained
from jaxalign.models.releases import LLAMA3_8B
from jaxalign.references.live import Live
from jaxalign.rollout import Sample
from jaxalign.samplers import TopP
from jaxalign.sharding import MeshShape
from jaxalign.train import Fit

experiment = dataclasses.replace(
    comal,
    model=Pretrained("models/llama3-8b-instruct", compute_dtype="bfloat16", remat="dots", shape=LLAMA3_8B),
    topology="v5p:4x4x4",
    mesh=MeshShape(data=4, fsdp=16),
    reference=Live(),
    rollout=Sample(
        samples=5, max_tokens=1024, max_prompt_tokens=1024, sampler=TopP(p=0.95, temperature=0.8), batch_size=512
    ),
    fit=Fit(batch_size=128, checkpoint_every=100),
    evaluation=dataclasses.replace(
        comal.evaluation,
        rollout=Sample(
            samples=1, max_tokens=1024, max_prompt_tokens=1024, sampler=TopP(p=0.95, temperature=0.7), batch_size=512
        ),
    ),
    score_batch_size=256,
)
