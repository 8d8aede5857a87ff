"""The PyTorch interface: DecoderModel as a torch.nn.Module over the JAX decoder. The only place that imports torch."""

from llm_torch_compat.decoder import DecoderModel
from llm_torch_compat.generation import batch_generate, generate, stream_generate

__all__ = ["DecoderModel", "batch_generate", "generate", "stream_generate"]
