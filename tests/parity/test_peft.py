"""PEFT loads our adapters, and merges them to what we merge. Skipped where it is not installed."""

import jax
import numpy as np
import pytest

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import load_file  # noqa: E402

from jaxalign.exchange.export import export  # noqa: E402
from jaxalign.exchange.peft import export_policy  # noqa: E402
from jaxalign.models.lora import LoRA  # noqa: E402
from jaxalign.models.low_rank import frozen, join, trained  # noqa: E402
from jaxalign.models.random_llama import RandomLlama  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


def test_peft_merges_to_what_we_merge(tmp_path):
    source = RandomLlama(tied=False)
    model, base = LoRA(source, rank=4, alpha=2.0, targets=("k_proj", "o_proj", "up_proj")).open(), source.open()
    whole, rng = model.load(), np.random.default_rng(0)
    drawn = jax.tree.map(lambda part: rng.standard_normal(part.shape, np.float32), trained(whole))
    params = join(drawn, frozen(whole))
    export(base, base.load(), tmp_path / "base")
    export_policy(model, params, tmp_path / "adapter", str(tmp_path / "base"))
    export(model, params, tmp_path / "merged")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    start = {name: tensor.numpy().copy() for name, tensor in plain.state_dict().items()}
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").merge_and_unload().state_dict()
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    for name, found in ours.items():
        # fp32 sums of four products, of numbers up to about 10
        np.testing.assert_allclose(theirs[name].numpy(), found, atol=1e-5)
    assert sum(not np.array_equal(start[name], found) for name, found in ours.items()) == 3 * 2
