"""Make a small random encoder to try the recipes for encoders on.

`python -m lorry_trainer.examples.objectives.encoder [FOLDER]`, or `encoder` where it runs. Nothing is known to it: it
shows that the way works. For real work name one of the hub's as `base`, `google-bert/bert-base-uncased` for instance.
"""

from __future__ import annotations

import re
import string
import sys
from pathlib import Path

from lorry_trainer.examples.generate import rows as customers
from lorry_trainer.examples.objectives.generate import rows

CONTEXT = 64  # tokens


def write(folder: Path, seed: int = 0) -> None:
    """A BERT of 64 features and two layers, with a word-piece tokenizer over the examples' words and single letters."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    vocabulary = {piece: index for index, piece in enumerate(_pieces())}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,  # so that attention, which is what query and key are learnt for, matters
        pad_token_id=vocabulary["[PAD]"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertForMaskedLM(config).save_pretrained(folder)


def _pieces() -> list[str]:
    """Special tokens, single characters where a word begins and within, and the examples' words."""
    texts = [row["context"] for row in customers("intent")]
    texts += [f"{row['question']} {row['context']}" for row in rows("passage")]
    words = set(re.findall(r"[a-z]{2,}", " ".join(texts).lower()))
    single = string.ascii_lowercase + string.digits + string.punctuation
    within = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *single, *within, *sorted(words)]


if __name__ == "__main__":
    from lorry_trainer.quiet import quiet_logs

    quiet_logs()
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "encoder"))
