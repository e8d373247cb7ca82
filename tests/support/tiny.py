"""Tiny models of real architectures, with tokenizers of every kind, for offline tests."""

from pathlib import Path

import torch
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from puma_engine.backbone.templates import TEMPLATES, Slot
from puma_engine.backbone.tokens import encode_template

TEXTS = [piece for t in TEMPLATES.values() for piece in t.pieces if not isinstance(piece, Slot)] + [
    "The Hobbit by J. R. R. Tolkien",
    "Dune by Frank Herbert",
    "Rating: 1 Rating: 2 Rating: 3 Rating: 4 Rating: 5 Answer: Yes Answer: No Yes No",
]
TOKENIZER_KINDS = ("bytes-bos", "bytes-no-bos", "metaspace", "metaspace-prefix")
FAMILIES = ("llama", "qwen2", "gemma3", "phi3", "stablelm", "gpt2")
KIND_OF = dict(
    zip(FAMILIES, ("bytes-bos", "bytes-no-bos", "metaspace", "metaspace-prefix"), strict=False)
)


def tiny_tokenizer(kind: str, texts: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Train a small BPE tokenizer: byte-level or SentencePiece-like, with or without BOS."""
    special = ["<s>", "</s>"]
    alphabet: list[str] = []
    if kind.startswith("bytes"):
        core = Tokenizer(models.BPE())
        digits = pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        scheme = "always" if kind == "metaspace-prefix" else "never"
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(prepend_scheme=scheme),
                pre_tokenizers.Digits(individual_digits=True),
            ]
        )
        core.decoder = decoders.Metaspace(prepend_scheme=scheme)
        special = ["<unk>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
        alphabet = list("\u2581" + "abcdefghijklmnopqrstuvwxyz0123456789.,:?'")
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts or TEXTS * 3, trainer)
    if kind != "bytes-no-bos":
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token=AddedToken("</s>", special=True)
    )
    return tokenizer


def tiny_model(family: str, vocabulary: int, width: int = 32, seed: int = 7) -> torch.nn.Module:
    """Build a random two-layer model of a family, of a width."""
    shared = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    t = transformers
    if family == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**shared))
    if family == "qwen2":
        return t.Qwen2ForCausalLM(t.Qwen2Config(**shared, tie_word_embeddings=True))
    if family == "gemma3":
        config = t.Gemma3TextConfig(
            **shared, head_dim=8, sliding_window=16, final_logit_softcapping=20.0
        )
        return t.Gemma3ForCausalLM(config)
    if family == "phi3":
        return t.Phi3ForCausalLM(t.Phi3Config(**shared))
    if family == "stablelm":
        return t.StableLmForCausalLM(t.StableLmConfig(**shared))
    if family == "bloom":
        return t.BloomForCausalLM(t.BloomConfig(vocab_size=vocabulary, hidden_size=width, n_head=4))
    config = t.GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=2, n_head=4, n_positions=512)
    return t.GPT2LMHeadModel(config)


def tiny_backbone_folder(
    folder: Path, family: str = "llama", kind: str | None = None, width: int = 32, seed: int = 7
) -> Path:
    """Save a tiny model and its tokenizer to folder/family and return that path."""
    tokenizer = tiny_tokenizer(kind or KIND_OF.get(family, "bytes-bos"))
    model = tiny_model(family, len(tokenizer), width, seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    path = folder / family
    model.save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)
    return path


def plain_logits(reader, prompts, rows, side):
    """Logits of the whole padded sequence through the unmodified model."""
    backbone = reader.backbone
    sequences = []
    for prompt, row in zip(prompts, rows.tolist(), strict=True):
        context, pieces = reader.contexts[row], []
        ids = [] if reader.template.chat_template else list(backbone.start)
        encoded = encode_template(backbone.tokenizer, reader.template, reader.task.answers)
        for piece in encoded.pieces:
            if piece is Slot.PROMPT:
                pieces += [backbone.embed(torch.tensor(ids, dtype=torch.long)), prompt]
                ids = []
            elif isinstance(piece, Slot):
                ids += reader.slot_ids(piece, context)
            else:
                ids += piece
        sequences.append(torch.cat([*pieces, backbone.embed(torch.tensor(ids, dtype=torch.long))]))
    width = max(map(len, sequences))
    embeddings = torch.zeros(len(sequences), width, backbone.width)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for number, sequence in enumerate(sequences):
        span = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        embeddings[number, span], mask[number, span] = sequence, 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = backbone.model(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=positions
    ).logits
    last = [width - 1 if side == "left" else len(sequence) - 1 for sequence in sequences]
    return logits[torch.arange(len(sequences)), last][:, reader.answers]
