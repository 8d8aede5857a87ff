#!/usr/bin/env bash
# tokenizers 0.23.3, transformers 5.23.0 (seen 2026-11-29, Python 3.11).
#
# A byte-level token begins with the space before its word. tokenizers' ByteLevel post-processor takes that space out of
# the token's offsets, unless it is told trim_offsets=False: the space then belongs to no token. transformers finds the
# tokens of an assistant's turn (return_assistant_tokens_mask) by the character at which the template's {% generation %}
# begins. Where that is such a space there is no token, the search ends, and the mask of the whole conversation is 0 at
# every token: a fine-tuning run over it learns nothing from it, without an error or a warning.
#
# Seen: 0 of 2 assistant tokens with trimmed offsets, both without. Look at the mask's sum for each conversation; use
# trim_offsets=False, or put the space before the {% generation %} block.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
cat > "$folder/mask.py" <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

template = (
    "{% for message in messages %}{{ message.role }}:"
    "{% if message.role == 'assistant' %}{% generation %}{{ ' ' + message.content }}{% endgeneration %}"
    "{% else %}{{ ' ' + message.content }}{% endif %}{% endfor %}"
)
conversation = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello world"}]


def masked(trim_offsets):
    """The tokens that the mask marks."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([" hello world"] * 5, trainer)
    bpe.post_processor = processors.ByteLevel(**trim_offsets)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    tokenizer.chat_template = template
    made = tokenizer.apply_chat_template(conversation, return_assistant_tokens_mask=True, return_dict=True)
    tokens = tokenizer.convert_ids_to_tokens(made["input_ids"])
    assert tokens[-2:] == ["Ġhello", "Ġworld"], tokens
    return [token for token, marked in zip(tokens, made["assistant_masks"], strict=True) if marked]


print("as the post-processor is by default:", masked({}))
print("with trim_offsets=False:", masked({"trim_offsets": False}))
assert masked({}) == []
assert masked({"trim_offsets": False}) == ["Ġhello", "Ġworld"]
PY
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" "$folder/mask.py"
