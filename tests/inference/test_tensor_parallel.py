"""One model on four devices: in a process of its own, because the number of devices is fixed when JAX starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, tempfile
import numpy as np
from llm_jax.checkpoint import load_model, save_model
from llm_jax.config import ModelConfig
from llm_jax.inference import Engine, Request, SamplingParams
from llm_jax.kernels import has_native_linear
from llm_jax.model import Model, init_params, tensor_parallel_mesh

assert not has_native_linear(np.dtype("bfloat16")), "XLA does not divide a native call among devices"
dtype = sys.argv[1]
mesh = tensor_parallel_mesh(4)
base = dict(vocab_size=64, hidden_size=32, num_layers=1, num_heads=8, max_seq_len=96, positions="rotary", dropout=0.0)
everything = {"qkv_proj", "out_proj", "fc1", "gate_proj", "fc2", "lm_head", "token_embeddings"}
llama = dict(num_kv_heads=4, use_glu=True, norm="rms_norm", qkv_bias=False)
# Four devices divide neither its 6 heads of q, k and v, nor its tokens, nor its experts' width.
uneven = dict(num_heads=4, num_kv_heads=1, vocab_size=61, intermediate_size=126, use_moe=True, num_experts=3, top_k=2)


def tokens(model, mesh):
    engine, texts = Engine(model, max_batch=2, dtype=dtype, prefix_tokens=128, mesh=mesh), []
    engine.warmup()
    for i in (0, 1, 2, 3, 3):  # the last finds the first block of its prompt
        prompt = tuple(np.random.default_rng(i).integers(0, 61, 5 + 20 * i).tolist())
        sampling = SamplingParams(max_new_tokens=20, temperature=0.8 * (i == 2), seed=i, min_p=0.1)
        texts.append([])
        engine.submit(Request(prompt_ids=prompt, sampling=sampling), texts[-1].append)
    while engine.step():
        pass
    assert engine.stats.prefix_hits == 64
    assert engine.stats.compilations == 0
    return [[event.token for event in events] for events in texts]


for kinds, cut in (llama, everything), (uneven, {"out_proj"}):
    config = ModelConfig(**{**base, **kinds})
    model = Model(config, {k: v * (8 if v.ndim > 1 else 1) for k, v in init_params(config).items()})
    with tempfile.TemporaryDirectory() as directory:
        save_model(directory, model)
        spread = load_model(directory, mesh=mesh).model
    found = {name.split(".")[-2] for name, x in spread.params.items() if not x.is_fully_replicated and "weight" in name}
    assert found == cut, found
    alone = tokens(model, None)
    assert alone[3] == alone[4]
    assert tokens(spread, mesh) == alone
print("same tokens")
"""


# An int8 model on a mesh runs by XLA: so must the one that it is compared with, since rows round to whole numbers.
@pytest.mark.parametrize(("dtype", "kernels"), [("float32", "amx"), ("int8", "xla")])
def test_tokens_on_four_devices_equal_those_on_one(dtype: str, kernels: str) -> None:
    devices = {"JAX_NUM_CPU_DEVICES": "4", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiled in half of the time
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, dtype],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | devices | {"LLM_JAX_KERNELS": kernels},
    )
    assert done.stdout.strip() == "same tokens", done.stderr[-2000:]
