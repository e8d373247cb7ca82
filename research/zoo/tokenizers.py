"""Training of the zoo's tokenizers: five kinds, as the families really have them.

All split digits singly. What differs: a start token or none, spaces as part of the next
word (byte-level) or as a metaspace, a space put in front of every text or not, bytes or
characters as the smallest unit, and the vocabulary itself.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from puma_engine.backbone.tasks import TASKS
from puma_engine.backbone.templates import TEMPLATES, Slot
from puma_engine.zoo import POSITIONS, TokenizerPlan

TEMPLATE_REPEATS = 400
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_METASPACE = "\u2581"


def training_texts(books: Sequence[str], movies: Sequence[str], plan: TokenizerPlan) -> list[str]:
    """Return what one tokenizer learns from: thinned titles, and the templates' own words."""
    texts = _thin(books, plan.book_share, plan.kind) + _thin(movies, plan.movie_share, plan.kind)
    for template in TEMPLATES.values():
        # A digit is a token of its own, so nothing is learned across a slot.
        text = "".join("1" if isinstance(piece, Slot) else piece for piece in template.pieces)
        for answer in TASKS[template.task].answers:
            texts += [f"{text} {answer}", f"feature: {answer}; "] * TEMPLATE_REPEATS
    return texts


def train_tokenizer(plan: TokenizerPlan, texts: Iterable[str]) -> Any:
    """Train a tokenizer (CPU, seconds) and return it as transformers' fast tokenizer."""
    from transformers import PreTrainedTokenizerFast

    backend, special = _KINDS[plan.kind](plan.size, list(texts))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=POSITIONS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **special,
    )


def _thin(titles: Sequence[str], share: float, salt: str) -> list[str]:
    limit = share * 2**32
    return [
        title
        for title in sorted(set(titles))
        if int(hashlib.sha256(f"{salt}:{title}".encode()).hexdigest()[:8], 16) < limit
    ]


def _train(
    tokenizer: Tokenizer, size: int, texts: list[str], special: list[str], **settings: Any
) -> None:
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False, min_frequency=2, **settings
    )
    tokenizer.train_from_iterator(texts, trainer)


def _byte_level(
    size: int,
    texts: list[str],
    special: list[str],
    *,
    normalizer: Any = None,
    digits_alone: bool = False,
) -> Tokenizer:
    """Bytes as units and spaces as part of the next word, split by `_WORDS` or by digits."""
    tokenizer = Tokenizer(BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    split = (
        pre_tokenizers.Digits(individual_digits=True)
        if digits_alone
        else pre_tokenizers.Split(Regex(_WORDS), "isolated")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=digits_alone)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, size, texts, special, initial_alphabet=sorted(alphabet))
    return tokenizer


def _llama3(size: int, texts: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    tokenizer = _byte_level(size, texts, [bos, eos])
    _start_with(bos, tokenizer)
    return tokenizer, {"bos_token": bos, "eos_token": eos, "pad_token": eos}


def _qwen2(size: int, texts: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(size, texts, special, normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer, {"eos_token": special[2], "pad_token": special[0]}


def _neox(size: int, texts: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    end = "<|endoftext|>"
    tokenizer = _byte_level(size, texts, [end, "<|padding|>"], digits_alone=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer, {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end}


def _gemma(size: int, texts: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    special["unk_token"] = "<unk>"
    return _metaspace(size, texts, [*special.values()], "<bos>", prepend=False), special


def _llama2(size: int, texts: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    special["pad_token"] = "<|endoftext|>"
    return _metaspace(size, texts, [*special.values()], "<s>", prepend=True), special


def _metaspace(
    size: int, texts: list[str], special: list[str], bos: str, *, prepend: bool
) -> Tokenizer:
    """Learn merges inside words, then keep them in a model that needs no pre-tokenizer.

    Digits were split off while learning, so no merge joins a space and a digit. Bytes stand
    for the characters that are not in the alphabet. prepend: put a space in front of every text.
    """
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    learner = Tokenizer(BPE())
    scheme = "always" if prepend else "never"
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(_METASPACE, prepend_scheme=scheme),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    _train(learner, size - len(bytes_), texts, special, limit_alphabet=160)
    model = json.loads(learner.to_str())["model"]
    learned = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocabulary = [*special, *bytes_, *learned[len(special) :]]
    tokenizer = Tokenizer(
        BPE(
            vocab={token: row for row, token in enumerate(vocabulary)},
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.add_special_tokens(special)
    space: Any = normalizers.Replace(" ", _METASPACE)
    steps = [decoders.Replace(_METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepend:
        space = normalizers.Sequence([normalizers.Prepend(_METASPACE), space])
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer, tokenizer.decoder = space, decoders.Sequence(steps)
    _start_with(bos, tokenizer)
    return tokenizer


def _start_with(token: str, tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A {token} $B",
        special_tokens=[(token, tokenizer.token_to_id(token))],
    )


_KINDS = {"llama3": _llama3, "qwen2": _qwen2, "gemma": _gemma, "llama2": _llama2, "neox": _neox}
