"""Tokenizers of three families with small vocabularies trained here, each as its family's class and folder has it.

Spaces are `▁` in Llama's and Gemma's vocabularies, `Ġ` in Qwen2's, whose `Ċ` is a line feed; what Llama's does not know
is written in bytes, as its line feed is.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Q: Ann has 7 pens. Bob has 5 more pens than Ann. How many pens does Bob have?",
    "Bob has <<7+5=12>>12 pens.",
    "#### 12",
] * 50
LLAMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + "
    "eos_token }}{% else %}{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{{ '<start_of_turn>' + ('model' if m['role'] == "
    "'assistant' else 'user') + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN_CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FAMILIES = ("llama", "legacy_llama", "gemma", "qwen2")


@cache
def family(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family, saved and opened again as a user's."""
    from transformers import AutoTokenizer

    made = {"llama": _llama, "legacy_llama": _legacy_llama, "gemma": _gemma, "qwen2": _qwen2}[name]()
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def _train(pre_tokenizer, alphabet: list[str], specials: list[str], size: int):
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=specials[0] if specials else None, byte_fallback=bool(specials)))
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def _sentencepiece(specials: list[str], prepend: str):
    from tokenizers import pre_tokenizers

    spaces = pre_tokenizers.Metaspace("▁", prepend_scheme=prepend, split=True)
    return _train(spaces, list("[]/INSTusermodl"), [*specials, *(f"<0x{byte:02X}>" for byte in range(256))], 400)


def _llama() -> PreTrainedTokenizerFast:
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer(**_sentencepiece(["<unk>", "<s>", "</s>"], "always"), add_bos_token=True)
    tokenizer.chat_template = LLAMA_CHAT
    return tokenizer


def _legacy_llama() -> PreTrainedTokenizerFast:
    """As Llama 2's tokenizer.json has it: a normalizer puts the space before every piece of a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    known = _sentencepiece(["<unk>", "<s>", "</s>"], "always")
    tokenizer = Tokenizer(models.BPE(**known, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = LLAMA_CHAT
    return made


def _gemma() -> PreTrainedTokenizerFast:
    from transformers import GemmaTokenizer

    known = _sentencepiece(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], "never")
    turns = ["<start_of_turn>", "<end_of_turn>"]
    for token in ("\n", *turns):
        known["vocab"][token] = len(known["vocab"])
    tokenizer = GemmaTokenizer(**known, add_bos_token=True, extra_special_tokens=turns)
    tokenizer.chat_template = GEMMA_CHAT
    return tokenizer


def _qwen2() -> PreTrainedTokenizerFast:
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    bytes_of = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    known = _train(bytes_of, pre_tokenizers.ByteLevel.alphabet(), [], 300)
    tokenizer = Qwen2Tokenizer(**known, extra_special_tokens=["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = QWEN_CHAT
    return tokenizer
