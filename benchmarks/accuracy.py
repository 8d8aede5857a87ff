"""How near a GGUF file's log-probabilities are to those of its weights in float64: this engine's and llama.cpp's.

    python -m benchmarks.accuracy FILE.gguf … [--kernels LEVEL] [--text FILE …]

The judge is transformers' torch model with the file's weights dequantised, in float64. Errors are those of the
log-probabilities of its five most likely tokens at each of the first 1,000 tokens of each text.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.engines.interface import THREADS
from benchmarks.files import LEVELS
from benchmarks.machine import describe
from cli._errors import Command
from llm_jax.checkpoint import load_model
from llm_jax.hub import load_with_tokenizer
from llm_jax.model import cast_model, dense_layout, forward, init_cache, kernel_level

HERE = Path(__file__).parents[1]
TEXTS = [HERE / "docs" / name for name in ("architecture.md", "operate.md", "usage.md")]
TOKENS, TOP = 1000, 5
PASS = 512  # tokens of one forward pass, which is what the engine's longest has


def judge(file: Path) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits [T, V] of the file's weights, by another implementation."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    options = {"dtype": torch.float64, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **options).eval()

    def logits(ids: Sequence[int]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].numpy()

    return logits


def ours(file: Path) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits [T, V] by the kernels and the cache of a server, in passes of its longest."""
    model, compute = cast_model(load_model(file, mapped=True).model, "auto")

    @jax.jit
    def run(tokens: jax.Array, cached: jax.Array, cache: object) -> tuple[jax.Array, object]:
        layout = dense_layout(cache, cached, tokens.shape[1])
        return forward(model.config, model.params, tokens, dtype=compute, cache=cache, layout=layout)

    def logits(ids: Sequence[int]) -> np.ndarray:
        cache = init_cache(model.config, 1, -(-len(ids) // 64) * 64, jnp.bfloat16, level=kernel_level(model))
        parts = []
        for start in range(0, len(ids), PASS):
            tokens = jnp.asarray([ids[start : start + PASS]])
            part, cache = run(tokens, jnp.array([start], jnp.int32), cache)
            parts.append(np.asarray(part[0]))
        return np.concatenate(parts)

    return logits


def llama_cpp(file: Path) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits [T, V] by llama.cpp as it comes."""
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=TOKENS + 24, logits_all=True, n_threads=THREADS, verbose=False)

    def logits(ids: Sequence[int]) -> np.ndarray:
        model.reset()
        model.eval(list(ids))
        return model.scores[: len(ids)]

    return logits


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@click.command(cls=Command, help=__doc__)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--kernels", type=click.Choice(LEVELS), help="This engine's instruction level.  [default: the best here]")
@click.option("--text", "texts", multiple=True, default=TEXTS, type=click.Path(exists=True, path_type=Path))
def main(files: Sequence[Path], kernels: str | None, texts: Sequence[Path]) -> None:
    if kernels is not None:
        os.environ["LLM_JAX_KERNELS"] = kernels
    click.echo(" · ".join(f"{name} {value}" for name, value in describe().items()))
    click.echo("\n| file | text | tokens | mean error | llama.cpp | largest error | llama.cpp |\n" + "|---" * 7 + "|")
    for file in files:
        tokenizer = load_with_tokenizer(str(file))[1]
        right, engines = judge(file), [ours(file)]
        try:
            engines.append(llama_cpp(file))
        except ImportError:
            click.echo("llama.cpp is not installed; pip install 'llm[llama-cpp]'", err=True)
        for text in texts:
            ids = tokenizer.encode_with_special_tokens(text.read_text())[:TOKENS]
            expected = log_softmax(right(ids))
            top = np.argpartition(-expected, TOP, axis=-1)[:, :TOP]
            errors = [np.abs(np.take_along_axis(log_softmax(of(ids)) - expected, top, 1)) for of in engines]
            missing = ["–"] * (2 - len(errors))
            figures = [x for of in (np.mean, np.max) for x in [*(f"{of(error):.4f}" for error in errors), *missing]]
            click.echo(f"| {file.stem} | {text.name} | {len(ids)} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
