"""transformers gives our score models the scores that we do, from nothing but the exported directory; PEFT its adapter.

Needs torch, transformers and peft: pip install -e '.[test,parity]'; run with `pytest -m parity tests/parity`.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from made_classifier import open_classifier  # noqa: E402
from made_models import nudged  # noqa: E402

from jaxalign.errors import ModelError  # noqa: E402
from jaxalign.exchange.export import export  # noqa: E402
from jaxalign.exchange.peft import export_policy  # noqa: E402
from jaxalign.models.headed import Headed  # noqa: E402
from jaxalign.models.lora import LoRA  # noqa: E402
from jaxalign.models.low_rank import frozen, join, trained  # noqa: E402
from jaxalign.models.model import Model, Source  # noqa: E402
from jaxalign.models.pretrained import SmolLM2  # noqa: E402
from jaxalign.models.random_llama import RandomLlama  # noqa: E402
from jaxalign.types import Params  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

TALKS = [
    [{"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": "Rayleigh scattering."}],
    [{"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": "Because it is.\n"}],
    [{"role": "user", "content": "2 + 2 = ?"}, {"role": "assistant", "content": ""}],
]
BASE = RandomLlama(tied=False)
SOURCES = {
    "full": Headed(BASE, outputs=4, names=("a", "b", "c", "d")),
    "short": Headed(BASE, outputs=1, layers=1),
    "lora": LoRA(Headed(BASE, outputs=2), rank=2),
    "frozen": Headed(BASE, outputs=1, trunk="frozen"),
}


def moved(source: Source) -> tuple[Model, Params]:
    """The source's model, and parameters of which everything that is trained has moved."""
    model = source.open()
    whole = model.load()
    return model, join(nudged(trained(whole), 0.1, seed=1), frozen(whole))


def theirs(directory, model=None) -> np.ndarray:
    """Scores of the conversations in one padded batch, as people call a classifier."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = model or transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in TALKS]
    rows = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits.numpy()


def ours(directory) -> np.ndarray:
    return np.asarray(open_classifier(str(directory)).conversations(TALKS))


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_transformers_scores_as_we_do(source, tmp_path):
    model, params = moved(source)
    export(model, params, tmp_path / "judge")
    found = theirs(tmp_path / "judge")
    assert found.shape == (len(TALKS), len(model.config.outputs))
    np.testing.assert_allclose(found, ours(tmp_path / "judge"), atol=2e-5, rtol=2e-5)  # fp32, sums in another order
    config = transformers.AutoConfig.from_pretrained(tmp_path / "judge")
    assert config.num_labels == len(model.config.outputs)
    assert tuple(config.id2label[index] for index in range(config.num_labels)) == model.config.outputs
    assert config.pad_token_id is not None


def test_a_head_on_smollm2(tmp_path):
    try:
        model = Headed(SmolLM2(), outputs=2, layers=3).open()
    except ModelError as error:
        pytest.skip(str(error))
    export(model, model.load(), tmp_path / "judge")
    np.testing.assert_allclose(theirs(tmp_path / "judge"), ours(tmp_path / "judge"), atol=1e-4, rtol=1e-4)


def test_peft_loads_an_adapter_with_its_head(tmp_path):
    peft = pytest.importorskip("peft")
    source = SOURCES["lora"]
    model, params = moved(source)
    whole = Headed(BASE, outputs=2).open()
    export(whole, whole.load(), tmp_path / "base")
    export_policy(model, params, tmp_path / "adapter", str(tmp_path / "base"))
    export(model, params, tmp_path / "merged")
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    found = theirs(tmp_path / "base", adapted)
    assert not np.allclose(found, ours(tmp_path / "base"), atol=1e-2)
    np.testing.assert_allclose(found, ours(tmp_path / "merged"), atol=2e-5, rtol=2e-5)
