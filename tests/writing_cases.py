"""What the tests of text generation share: small decoders with a tokenizer and a chat template, saved in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pellucid import AutoConfig, AutoModelForCausalLM
from small_tokenizers import SENTENCES, byte_level

CHAT_TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for one in documents or [] %}{{ one['text'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant: {% endif %}"
)
WINDOW = 256
PROMPTS = ["The quick brown fox", "Hello world, this is", "naïve café — 12,345", "I", SENTENCES[1], "we've seen 🙂 'em"]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "Hello world!"},
]


def make_writer(folder: Path, model_type: str = "gpt2", template: bool = True, **settings: Any) -> Path:
    """Save a small decoder with large random weights, as both libraries load it."""
    torch.manual_seed(3)
    tokenizer = byte_level()
    tokenizer.save_pretrained(folder)
    tokenizer = type(tokenizer).from_pretrained(folder, model_max_length=WINDOW, pad_token="<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE if template else None
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": WINDOW}
    if model_type == "llama":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"intermediate_size": 48, "max_position_embeddings": WINDOW}
    end = tokenizer.eos_token_id
    common = {"vocab_size": len(tokenizer), "eos_token_id": end, "bos_token_id": end, "initializer_range": 0.3}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**sizes, **common, **settings}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
