"""Those that are compared, ours first."""

from benchmarks.contenders.apart import Apart
from benchmarks.contenders.contender import Absent, Contender, Decoding, room
from benchmarks.contenders.llama_cpp import LlamaCpp
from benchmarks.contenders.ours import Ours
from benchmarks.contenders.transformers import Transformers

PEERS: dict[str, type[Contender]] = {peer.name: peer for peer in (LlamaCpp, Transformers)}

__all__ = ["PEERS", "Absent", "Apart", "Contender", "Decoding", "LlamaCpp", "Ours", "Transformers", "room"]
