#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (seen 2026-11-29, CPU).
#
# generate(stop_strings=…) looks for the strings in all ids, those of the prompt among them. A stop string that begins
# with the prompt's last characters is complete as soon as the model has written the rest: with a prompt that ends with
# a line break and the stop string "\n\n" one line break ends the text. Servers that look at what is generated write
# two. So the same prompt, settings and weights give a shorter text, often an empty one, and scores of a test harness
# differ by how a prompt ends.
#
# Seen, of a model that only writes line breaks, behind "Name:\n": one before the end, though "\n\n" takes two. Search
# in the decoded answer by yourself, or have no prompt end with how a stop string begins.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - <<'PY'
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
by_bytes = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
by_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
by_bytes.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=by_bytes)
sizes = {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()


prompt = "Name:\n"
ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
with torch.no_grad():  # the head knows a line break alone
    model.lm_head.weight.zero_()
    model.lm_head.weight[tokenizer.convert_tokens_to_ids("Ċ")] = model.model(ids).last_hidden_state[0, -1]


def written(**options):
    """What the model writes, six tokens at most."""
    options |= {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "eos_token_id": 255}
    return tokenizer.decode(model.generate(ids, max_new_tokens=6, do_sample=False, **options)[0, ids.shape[1] :])


found = {stop: written(stop_strings=[stop], tokenizer=tokenizer) for stop in ("\n\n", "\n\n\n")}
print(f"behind {prompt!r}: {written()!r}")
for stop, text in found.items():
    print(f"with the stop string {stop!r}: {text!r}")
assert written() == "\n" * 6
assert found == {"\n\n": "\n", "\n\n\n": "\n\n"}, found
PY
