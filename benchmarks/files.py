"""GGUF files at their own precision, beside llama.cpp on the same files: decoding, prompts, and the memory limit.

    python -m benchmarks.files [FILE.gguf …] [--kernels LEVEL]

Without files, a random model of the 160M shape is written in three types. Engines take turns, with two threads each;
llama.cpp, where it is installed, with its best settings.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.engines import BenchmarkEngine, InSubprocess, LlamaCpp, LlmJax, Unavailable
from benchmarks.machine import Memory
from benchmarks.weights import Weights, random_weights
from cli._errors import Command
from llm_jax.checkpoint import convert, load_model, open_model
from llm_jax.config import ModelConfig
from llm_jax.kernels import Level
from llm_jax.model import Model, ModelDtype

BATCHES, CONTEXT, PREFILL = (1, 8, 16), 32, 512
STEPS, ROUNDS = 32, 4
TYPES = ("q4_0", "q4_k_m", "q8_0")
LEVELS = [level.name.lower() for level in Level]


@click.command(cls=Command)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--kernels", type=click.Choice(LEVELS), help="This engine's instruction level.  [default: the best here]")
def main(files: Sequence[Path], kernels: str | None) -> None:
    """Measure this engine and llama.cpp on GGUF files."""
    if kernels is not None:
        os.environ["LLM_JAX_KERNELS"] = kernels
    for file in files:
        measure(file)
    if not files:
        with random_weights("llama-160m") as weights:
            for type_name in TYPES:
                file = weights.scratch / f"llama-160m-{type_name}.gguf"
                convert(open_model(weights.directory()), file, dtype=type_name)
                measure(file)


def measure(file: Path) -> None:
    """Prints the rates on one file, in tokens per second, and what they are of llama.cpp's."""
    weights = FileWeights.of(file)
    size, max_len = weights.bytes_per_step, PREFILL + 64
    click.echo(f"{file.name}: a step reads {size / 1e6:.0f} MB")
    engines: list[LlmJax | InSubprocess] = [LlmJax(weights, "auto", max_batch=max(BATCHES), max_len=max_len)]
    try:
        engines.append(InSubprocess(LlamaCpp, weights, "auto", max_batch=max(BATCHES), max_len=max_len))
    except Unavailable as reason:
        click.echo(f"  llama.cpp: {reason}")

    def decoding(engine: BenchmarkEngine | InSubprocess, batch: int) -> float:
        return engine.decode(batch, CONTEXT, STEPS).rate

    def prompt(engine: BenchmarkEngine | InSubprocess) -> float:
        return PREFILL / engine.prefill(PREFILL)

    memory = Memory()
    for batch in (*BATCHES, None):
        rates = [0.0] * len(engines)
        bandwidth = 0.0
        for number in range(1 + ROUNDS):
            for index, engine in enumerate(engines):
                rate = prompt(engine) if batch is None else decoding(engine, batch)
                rates[index] = max(rates[index], rate if number else 0.0)  # the first warms up
            bandwidth = max(bandwidth, memory.bandwidth(0.1))
        said = [f"  {'prompt of 512' if batch is None else f'batch {batch}'}: {rates[0]:.0f} tokens/s"]
        if len(rates) > 1:
            said.append(f"llama.cpp {rates[1]:.0f}, ratio {rates[0] / rates[1]:.2f}")
        if batch == 1:
            said.append(f"{rates[0] * size / bandwidth:.0%} of the memory limit ({bandwidth / 1e9:.1f} GB/s)")
        click.echo(", ".join(said))
    for engine in engines:
        engine.close()


class FileWeights(Weights):
    """The weights of a GGUF file, for the engines that open it."""

    @classmethod
    def of(cls, file: Path) -> "FileWeights":
        return cls(file.name, file.parent)

    @property
    def path(self) -> Path:
        return self.scratch / self.shape

    @property
    def config(self) -> ModelConfig:
        return open_model(self.path).config

    def model(self) -> Model:
        return load_model(self.path, mapped=True).model

    def gguf(self, dtype: ModelDtype) -> Path:
        return self.path

    @property
    def bytes_per_step(self) -> int:
        """Of the matrices that a token is multiplied with: a table that is looked up is none, unless it is the head."""
        from gguf import GGUFReader

        read = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(self.path).tensors}
        if "output.weight" in read:
            del read["token_embd.weight"]
        return sum(read.values())


if __name__ == "__main__":
    main()
