"""How a server comes to serve a policy that was just exported to a directory.

    LoadAdapter()                                               vLLM, started with --enable-lora and
                                                                VLLM_ALLOW_RUNTIME_LORA_UPDATING=True
    RunCommand(("./reload.sh", "{directory}"), adapter=False)   anything else: a script of yours restarts the server
                                                                or has it reload, and ends when that is done

Both are given directories that the server must see under the same path. Whether the server then serves what it was
given is not taken on trust: its log-probs are compared (`served`).
"""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxalign.errors import ConfigError, ServerError
from jaxalign.served.client import Client
from jaxalign.served.said import Garbage, excerpt, parsed


@runtime_checkable
class Handover(Protocol):
    """(client, directory) → the model's name in requests from now on. `adapter`: whether the directory holds a PEFT
    adapter, or else a whole Hugging Face model. Raises ServerError when the server does not take it."""

    @property
    def adapter(self) -> bool: ...

    def __call__(self, client: Client, directory: Path) -> str: ...


@dataclass(frozen=True)
class LoadAdapter:
    """Each policy is an adapter of the served base, under the directory's name; the one before is let go."""

    @property
    def adapter(self) -> bool:
        """It is."""
        return True

    def __call__(self, client: Client, directory: Path) -> str:
        """Loads it, unless the server lists it already."""
        there = listed(client)
        for name in there:
            if name.startswith(f"{directory.name.partition('-')[0]}-") and name != directory.name:
                client.command("POST", "/unload_lora_adapter", {"lora_name": name})
        if directory.name not in there:
            client.command("POST", "/load_lora_adapter", {"lora_name": directory.name, "lora_path": str(directory)})
        return directory.name


@dataclass(frozen=True)
class RunCommand:
    """A command of yours. It runs before each phase that samples, so let it end at once when nothing has changed."""

    command: tuple[str, ...]
    """program and arguments; {directory} stands for where the policy lies"""
    adapter: bool = False
    """whether it is given the adapter of a LoRA policy, or a whole model"""
    timeout_seconds: float = 1800.0
    """it is ended after so long"""

    def problems(self) -> Iterable[str]:
        if not any("{directory}" in word for word in self.command):
            yield "command must have {directory} among its arguments"
        if not self.timeout_seconds > 0:
            yield f"timeout_seconds must be positive, got {self.timeout_seconds}"

    def __call__(self, client: Client, directory: Path) -> str:
        """Runs it, and waits until the server answers."""
        words = [word.replace("{directory}", str(directory)) for word in self.command]
        try:
            ended = subprocess.run(
                words, capture_output=True, timeout=self.timeout_seconds, env=self._environment(client)
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServerError(f"handover command {words[0]}: {type(error).__name__}: {error}") from error
        if ended.returncode:
            told = excerpt((ended.stderr or ended.stdout).decode(errors="replace"))
            raise ServerError(f"handover command {words[0]}: ended with {ended.returncode}: {told}")
        listed(client)
        return client.server.model

    def _environment(self, client: Client) -> dict[str, str]:
        """That of this process but for the key, which is no business of the command's."""
        return {name: value for name, value in os.environ.items() if name != client.server.key_variable}


@dataclass(frozen=True)
class NotRun:
    """A command that only a run directory names, which may be a stranger's: who would run it is refused."""

    command: RunCommand

    @property
    def adapter(self) -> bool:
        """As the command has it."""
        return self.command.adapter

    def __call__(self, client: Client, directory: Path) -> str:
        """Raises ConfigError."""
        del client, directory
        raise ConfigError(
            f"handover command {' '.join(self.command.command)!r:.200}: a run directory names it, which may be a "
            "stranger's; to have it run, name the config file that says the same (--config FILE)"
        )


def listed(client: Client) -> list[str]:
    """Names of the models that the server serves. Raises ServerError."""
    content = client.command("GET", "/models")
    try:
        return [str(model["id"]) for model in parsed(content)["data"]]
    except (Garbage, KeyError, TypeError) as error:
        raise ServerError(f"{client.address}: GET /models: its answer is none: {json.dumps(str(error))}") from error


EXAMPLES = (LoadAdapter(), RunCommand(("reload", "{directory}")))
