"""Samples from an OpenAI-style server: the engine of those who outgrow one machine.

    Sample(
        samples=4,
        max_tokens=512,
        engine=Served(
            Server("http://localhost:8000/v1", "llama-3-8b", answers="runs/answers"),
            exports="/shared/policies",
            handover=LoadAdapter(),
        ),
    )

Each policy is exported under a name that is a digest of its parameters, handed over to the server, and asked for one
completion a sample, with a seed folded from (iteration, prompt, sample). Prompts travel as token ids. Ids come back
where the server gives them (vLLM and SGLang `token_ids`, llama.cpp with each log-prob); elsewhere the text is tokenised
again, which need not give what was drawn, and is counted.

The recorded log-probs are our own, by one forward pass over the finished rows. Where the server tells its own, their
difference is a metric, and a server that serves another policy is refused by it:

    rollouts/logp_difference_nats    |server − ours|, mean over an answer's tokens
    rollouts/retokenised             answers whose ids the server did not tell
    rollouts/unreported              answers without log-probs that could be compared
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from jaxalign.data.groups import RolledGroups
from jaxalign.errors import ConfigError, DataError, ServerError
from jaxalign.exchange import export, peft
from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program
from jaxalign.mesh.rows import on_mesh
from jaxalign.mesh.sharding import full_rows, replicated, row_sharding
from jaxalign.models.low_rank import is_adapted, trained
from jaxalign.models.model import Model
from jaxalign.models.speaker import Speaker
from jaxalign.rollouts.contract import Drawn, Task
from jaxalign.rollouts.handover import Handover, LoadAdapter
from jaxalign.rollouts.keys import Keys, of_prompts
from jaxalign.rollouts.samplers import Greedy, Temperature, TopK, TopP
from jaxalign.rollouts.shares import given
from jaxalign.served.attempts import Failure
from jaxalign.served.client import Client, Request
from jaxalign.served.said import Said
from jaxalign.served.server import Server
from jaxalign.text.chat import Chat
from jaxalign.training.logps import token_logps
from jaxalign.training.rows import RowShape, pack
from jaxalign.types import Groups, Labels, Params, Sampler

PREFIX = "policy"


@dataclass(frozen=True)
class Served:
    """A server draws the tokens; one process asks it."""

    server: Server
    """where it is; `model` is its name for the base model"""
    exports: str
    """directory for policies, which the server sees under the same path"""
    handover: Handover = LoadAdapter()
    """how it comes to serve them"""
    dtype: str = "bfloat16"
    """of exported policies"""
    most_difference: float = 0.1
    """mean |difference| of log-probs, nats a token, from which the server is taken to serve another policy"""
    extra: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """more fields of each request, or others in place of its own"""

    def problems(self) -> Iterable[str]:
        if not self.exports:
            yield "exports must not be empty"
        if not self.most_difference > 0:
            yield f"most_difference must be positive, got {self.most_difference}"

    def open(
        self, task: Task, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int
    ) -> "ServedDrawer":
        """Pieces of about `rows` responses. ConfigError for a sampler or a policy that no server is told of."""
        if not isinstance(model, Model):
            raise ConfigError(
                f"rollout.engine: a server draws from one policy, and a {type(model).__name__} is made of several; "
                "take engine=Lockstep()"
            )
        if self.handover.adapter and not is_adapted(model.abstract()):
            raise ConfigError(
                f"rollout.engine.handover: {type(self.handover).__name__} hands over adapters, and the model is not "
                "adapted: wrap it in LoRA(…), or hand over whole models with RunCommand"
            )
        return ServedDrawer(self, task, model, mesh, options, rows)


class ServedDrawer:
    """Asks for every sample, and scores what comes."""

    def __init__(
        self, spec: Served, task: Task, model: Model, mesh: jax.sharding.Mesh, options: Options | None, rows: int
    ):
        self._spec, self._task, self._model, self._mesh = spec, task, model, mesh
        self._asked = {**sampling(task.sampler), "max_tokens": task.limit, **spec.extra}
        self._size = full_rows(mesh, max(rows // task.samples, 1))
        self._logps = jax.jit(partial(token_logps, model), out_shardings=replicated(mesh), compiler_options=options)

    def __call__(
        self, params: Params, prompts: Sequence[Sequence[int]], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Drawn]:
        """A piece whenever so many prompts have all their answers. Raises ServerError when one has none."""
        if not len(wanted):
            return
        if jax.process_count() > 1:
            raise ConfigError("rollout.engine: a policy is exported by one process, and this run has several")
        if not isinstance(self._model.chat, Chat):
            raise ConfigError(f"rollout.engine: {self._model.source} has no tokenizer that a server could have too")
        policy = fingerprint(params)
        with Client(self._spec.server) as client:
            name = self._spec.handover(client, self._exported(params, f"{PREFIX}-{policy[:16]}"))
            orders = [(number, sample) for number in wanted.tolist() for sample in range(self._task.samples)]
            seeds = self._seeds(keys, orders)
            asked = [
                Request("/completions", self._body(name, prompts[number], seed), policy)
                for (number, _), seed in zip(orders, seeds, strict=True)
            ]
            yield from self._pieces(params, prompts, orders, client.ask(asked), policy)

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """Another machine's."""
        del params, prompt
        return ()

    def calls(self, prompts: int) -> Mapping[str, int]:
        """None here."""
        del prompts
        return {}

    # ------------------------------------------------------------------------------------------------------ asking

    def _exported(self, params: Params, name: str) -> Path:
        """Where the policy lies; whole directories of that name are the same policy."""
        directory = Path(self._spec.exports).expanduser().absolute() / name
        if directory.is_dir() and any(directory.iterdir()):
            return directory
        if self._spec.handover.adapter:
            peft.export_policy(self._model, params, directory, self._spec.server.model, self._spec.dtype)
        else:
            export.export(self._model, params, directory, self._spec.dtype)
        return directory

    def _seeds(self, keys: Keys, orders: Sequence[tuple[int, int]]) -> list[int]:
        def seed(key: PRNGKeyArray, sample: jax.Array) -> jax.Array:
            return jax.random.bits(jax.random.fold_in(key, sample)) >> 1

        numbers, samples = np.array(orders, np.int32).T
        return np.asarray(jax.vmap(seed)(of_prompts(keys, numbers), samples)).tolist()

    def _body(self, name: str, prompt: Sequence[int], seed: int) -> dict[str, object]:
        return {"model": name, "prompt": list(prompt), "seed": seed, **self._asked}

    def _pieces(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        orders: Sequence[tuple[int, int]],
        arriving: Iterator[tuple[int, Said | Failure]],
        policy: str,
    ) -> Iterator[Drawn]:
        # blocks of all prompts and not of those that are wanted: the same rows are scored together after a stop
        width, blocks = max(map(len, prompts)), Counter(number // self._size for number, _ in orders)
        answers: dict[tuple[int, int], Said] = {}
        for index, said in arriving:
            number, sample = orders[index]
            if isinstance(said, Failure):
                raise ServerError(
                    f"{self._spec.server.url}: sample {sample} of prompt {number} was given up because "
                    f"{said.sentence}. What was answered is kept and is not asked again: mend the server and run the "
                    "same command"
                )
            answers[number, sample] = said
            block = number // self._size
            blocks[block] -= 1
            if not blocks[block]:
                numbers = np.array(sorted({each for each, _ in orders if each // self._size == block}))
                piece = [[answers.pop((each, at)) for at in range(self._task.samples)] for each in numbers.tolist()]
                yield self._drawn(params, prompts, width, numbers, piece, policy)

    # ------------------------------------------------------------------------------------------------------ answers

    def _drawn(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        width: int,
        numbers: Int[np.ndarray, " b"],
        said: Sequence[Sequence[Said]],
        policy: str,
    ) -> Drawn:
        asked, shape = [prompts[number] for number in numbers.tolist()], (len(numbers), self._task.samples)
        tokens = np.zeros((*shape, self._task.limit), np.int32)
        reported = np.full(tokens.shape, np.nan, np.float32)
        lengths, finished, retokenised = np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, np.float32)
        for at in np.ndindex(*shape):
            answer = said[at[0]][at[1]]
            refuse_other_prompt(answer, asked[at[0]])
            ids, theirs, told = self._ids(answer)
            lengths[at], finished[at], retokenised[at] = len(ids), ids[-1] in self._task.stop, not told
            tokens[at][: len(ids)], reported[at][: len(ids)] = ids, theirs
        logps = self._score(params, asked, width, tokens, lengths)
        notes = differences(reported, logps, lengths)
        self._refuse_other_policy(notes, policy)
        return Drawn(numbers, tokens, lengths, finished, logps, notes | {"retokenised": retokenised})

    def _ids(self, said: Said) -> tuple[list[int], list[float], bool]:
        """Ids of an answer, what the server says of their log-probs (NaN: nothing), and whether it told the ids."""
        chat = self._model.chat
        assert isinstance(chat, Chat)
        if said.finish not in ("stop", "length"):
            raise ServerError(f"{self._spec.server.url}: an answer ended with {said.finish!r}, not with stop or length")
        listed = [token.id for token in said.tokens if token.id is not None]
        # llama.cpp leaves out tokens that are a part of a character: its list has gaps then
        whole = listed and len(listed) == len(said.tokens) and said.answer_tokens in (None, len(listed))
        if said.ids is not None or whole:
            ids, told = list(said.ids or listed), True
        else:
            ids, told = chat.encode_all([said.text])[0], False
        fits = len(said.tokens) == len(ids) if told else self._spells(said, ids)
        reported = [token.logp for token in said.tokens] if fits else []
        if said.finish == "stop" and not (ids and ids[-1] in self._task.stop):
            ids.append(self._task.stop[0])  # servers leave out the token that ended the turn
        ids = ids[: self._task.limit]
        if not ids:
            raise ServerError(f"{self._spec.server.url}: an answer of no tokens that did not end its turn")
        return ids, [*reported, *[np.nan] * len(ids)][: len(ids)], told

    def _spells(self, said: Said, ids: Sequence[int]) -> bool:
        """Whether the server's tokens are those of the ids, as far as their texts say; what is no text says nothing."""
        texts = [self._model.chat.decode([id]) for id in ids]
        theirs = [token.text for token in said.tokens]
        return texts == theirs[: len(texts)] and len(theirs) - len(texts) in (0, 1) and "\ufffd" not in said.text

    def _score(
        self,
        params: Params,
        prompts: Sequence[Sequence[int]],
        width: int,
        tokens: Int[np.ndarray, "b m t"],
        lengths: Int[np.ndarray, "b m"],
    ) -> Float[np.ndarray, "b m t"]:
        """Log-probs (nats) under `params`; one program for all pieces of a call."""
        (count, samples, limit), table = tokens.shape, np.zeros((len(prompts), width), np.int32)
        for row, prompt in enumerate(prompts):
            table[row, : len(prompt)] = prompt
        rollouts = given(table, np.array([len(prompt) for prompt in prompts], np.int32), tokens, lengths)
        responses = np.tile(np.arange(samples), (count, 1))
        groups = Groups(np.arange(count), responses, np.ones(count, np.float32), Labels.unsaid(count, samples))
        chosen = np.pad(np.arange(count), (0, self._size - count), constant_values=-1)
        shape = RowShape.holding(width + samples * limit, samples * limit, limit)
        batch = on_mesh(pack(RolledGroups(rollouts, groups), chosen, shape, {}), row_sharding(self._mesh))
        found = np.asarray(self._logps(params, batch.rows, batch.mask))
        return found[:count, :, :limit]

    def _refuse_other_policy(self, notes: Mapping[str, Float[np.ndarray, "b m"]], policy: str) -> None:
        compared = notes["unreported"] == 0
        apart = notes["logp_difference_nats"][compared]
        if apart.size and apart.mean() > self._spec.most_difference:
            raise ServerError(
                f"{self._spec.server.url}: serves another policy than {PREFIX}-{policy[:16]} in {self._spec.exports}: "
                f"its log-probs are {apart.mean():.3g} nats a token from that policy's (most_difference is "
                f"{self._spec.most_difference}). It was handed over and is not what answers; or the server reports "
                "log-probs after temperature"
            )


def differences(
    reported: Float[np.ndarray, "b m t"], logps: Float[np.ndarray, "b m t"], lengths: Int[np.ndarray, "b m"]
) -> dict[str, Float[np.ndarray, "b m"]]:
    """Of each answer the mean |reported − ours| over the tokens that the server reports, 0 where it reports none."""
    told = np.isfinite(reported) & (np.arange(logps.shape[-1]) < lengths[..., None])
    apart = np.where(told, np.abs(np.where(told, reported, 0) - logps), 0).sum(-1, dtype=np.float64)
    count = told.sum(-1)
    mean = np.where(count > 0, apart / np.maximum(count, 1), 0).astype(np.float32)
    return {"logp_difference_nats": mean, "unreported": (count == 0).astype(np.float32)}


def refuse_other_prompt(said: Said, prompt: Sequence[int]) -> None:
    """DataError where the server says that it read another prompt: with a BOS of its own, or cut to its context."""
    if said.prompt_ids is not None and list(said.prompt_ids) != list(prompt):
        raise DataError(
            f"the server read a prompt of {len(said.prompt_ids)} other ids than the {len(prompt)} it was sent"
        )
    if said.prompt_tokens not in (None, len(prompt)):
        raise DataError(f"the server read {said.prompt_tokens} tokens of a prompt of {len(prompt)}")


def sampling(sampler: Sampler) -> dict[str, object]:
    """A request's fields for a sampler, all that servers know by other defaults among them.

    vLLM takes what it is not told from the model's generation_config.json, llama.cpp has defaults of its own.
    """
    plain: dict[str, object] = {
        **{"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0},
        **{"repetition_penalty": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0},
        **{"logprobs": 1, "return_token_ids": True},
    }
    match sampler:
        case Greedy():
            return plain | {"temperature": 0.0}
        case Temperature(temperature):
            return plain | {"temperature": temperature}
        case TopK(k, temperature):
            return plain | {"temperature": temperature, "top_k": k}
        case TopP(p, temperature):
            return plain | {"temperature": temperature, "top_p": p}
    raise ConfigError(f"rollout.sampler: a server cannot be told of {type(sampler).__name__}")


def fingerprint(params: Params) -> str:
    """SHA-256 of what is trained of a policy: names, shapes and values."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained(params)):
        array = np.ascontiguousarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
