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
from llm_jax.model import Model, init_params, tensor_parallel_mesh

base = dict(vocab_size=64, hidden_size=32, num_layers=2, num_heads=8, max_seq_len=96, positions="rotary", dropout=0.0)
for kinds in (
    dict(num_kv_heads=4, use_glu=True, norm="rms_norm", qkv_bias=False),
    dict(num_kv_heads=2, vocab_size=61),  # neither divides by four: those stay whole
    dict(use_moe=True, num_experts=3, top_k=2, tie_embeddings=True),
):
    config = ModelConfig(**{**base, **kinds})
    params = {k: v * (8 if v.ndim > 1 else 1) for k, v in init_params(config).items()}
    texts = []
    for mesh in (None, tensor_parallel_mesh(4)):
        engine, heard = Engine(Model(config, params), max_batch=2, mesh=mesh, prefix_tokens=128), ([], [])
        for i, events in enumerate(heard):
            prompt = tuple(np.random.default_rng(i).integers(0, 61, 5 + 20 * i).tolist())
            sampling = SamplingParams(max_new_tokens=20, temperature=0.0)
            engine.submit(Request(prompt_ids=prompt, sampling=sampling), events.append)
        while engine.step():
            pass
        texts.append([[event.token for event in events] for events in heard])
        if mesh is not None:
            cut = engine._params["transformer_blocks.0.self_attn.out_proj.weight"]
            assert len(cut.sharding.device_set) == 4 and not cut.is_fully_replicated
    assert texts[0] == texts[1], texts
print("same tokens")
"""


def test_greedy_tokens_on_four_devices_equal_those_on_one() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "same tokens", done.stderr[-2000:]
