"""Programs that run once: compiled without optimisation, which is half of what compiling takes.

The decoder is one of them: op by op, JAX compiles each operation of each shape by itself.
"""

from functools import partial

import jax

from llm_jax import model

compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

forward = compiled(model.forward, static_argnames=("config", "dtype"))
forward_hidden = compiled(model.forward_hidden, static_argnames=("config", "dtype"))
