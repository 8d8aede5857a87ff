"""Those that are compared, ours first."""

from benchmarks.engines.interface import Absent, Contender, Decoding, room
from benchmarks.engines.llama_cpp import LlamaCpp
from benchmarks.engines.llm_jax import Ours
from benchmarks.engines.subprocess import Apart
from benchmarks.engines.transformers import Transformers

PEERS: dict[str, type[Contender]] = {peer.name: peer for peer in (LlamaCpp, Transformers)}

__all__ = ["PEERS", "Absent", "Apart", "Contender", "Decoding", "LlamaCpp", "Ours", "Transformers", "room"]
