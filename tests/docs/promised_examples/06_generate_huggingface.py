import torch
from llm.models.decoder import DecoderModel
from llm.tokenization.tokenizer import HFTokenizer
from llm.inference import generate

tokenizer = HFTokenizer.from_pretrained("gpt2")

model = DecoderModel(
    vocab_size=tokenizer.vocab_size,
    hidden_size=768,
    num_layers=12,
    num_heads=12,
    max_seq_len=1024,
)

generated_text = generate(
    model=model,
    tokenizer=tokenizer,
    prompt="Once upon a time",
    max_new_tokens=50,
    temperature=0.9,
    top_p=0.95
)
print(generated_text)
