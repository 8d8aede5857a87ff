"""One model on four devices: in a process of its own, because the number of devices is fixed when JAX starts."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from llm_jax.config import ModelConfig
from llm_jax.inference import Engine, Request, SamplingParams
from llm_jax.model import Model, init_params, shard_params, tensor_parallel_mesh

base = dict(vocab_size=64, hidden_size=32, num_layers=1, num_heads=8, max_seq_len=96, positions="rotary", dropout=0.0)
everything = {"qkv_proj", "out_proj", "fc1", "gate_proj", "fc2", "lm_head", "token_embeddings"}
llama = dict(num_kv_heads=4, use_glu=True, norm="rms_norm", qkv_bias=False)
# Four devices divide neither its 6 heads of q, k and v, nor its tokens, nor its experts' width.
uneven = dict(num_heads=4, num_kv_heads=1, vocab_size=61, intermediate_size=126, use_moe=True, num_experts=3, top_k=2)
for kinds, cut in (llama, everything), (uneven, {"out_proj"}):
    config = ModelConfig(**{**base, **kinds})
    params = {k: v * (8 if v.ndim > 1 else 1) for k, v in init_params(config).items()}
    mesh = tensor_parallel_mesh(4)
    placed = shard_params(config, params, mesh)
    found = {name.split(".")[-2] for name, x in placed.items() if not x.is_fully_replicated and "weight" in name}
    assert found == cut, found
    texts = []
    for mesh in (None, mesh):
        engine, heard = Engine(Model(config, params), max_batch=2, mesh=mesh), ([], [])
        for i, events in enumerate(heard):
            prompt = tuple(np.random.default_rng(i).integers(0, 61, 5 + 20 * i).tolist())
            sampling = SamplingParams(max_new_tokens=20, temperature=0.0)
            engine.submit(Request(prompt_ids=prompt, sampling=sampling), events.append)
        while engine.step():
            pass
        texts.append([[event.token for event in events] for events in heard])
    assert texts[0] == texts[1], texts
print("same tokens")
"""


def test_greedy_tokens_on_four_devices_equal_those_on_one() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "same tokens", done.stderr[-2000:]
