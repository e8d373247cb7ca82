"""Build tokenizers from the metadata of GGUF files: byte-level BPE and SentencePiece BPE."""

from typing import Any

from puma_engine.backbone.gguf_model import GgufModel
from puma_engine.backbone.gguf_splits import LLAMA3_NAMES, QWEN2, SPLIT_NAME, SPLITS
from puma_engine.errors import BackboneError

CONTROL, USER_DEFINED = 3, 4


def build_tokenizer(model: GgufModel) -> Any:
    """Return the fast tokenizer that a GGUF file describes.

    Raises BackboneError if the file has no tokenizer, or one of another kind.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    kind, tokens = model.value("tokenizer.ggml.model"), model.value("tokenizer.ggml.tokens")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders or not tokens:
        raise BackboneError(
            f"The file {model.path} has a tokenizer of the kind {kind!r}; {' and '.join(builders)} are "
            "read. Put the model's tokenizer.json beside the file."
        )
    core = builders[kind](model, tokens)
    types = model.value("tokenizer.ggml.token_type") or []
    for token, number in zip(tokens, types, strict=False):
        if number in (CONTROL, USER_DEFINED):
            special = number == CONTROL
            core.add_tokens([AddedToken(token, normalized=False, special=special)])
    named = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = model.value(f"tokenizer.ggml.{key}_token_id")
        if number is not None and number < len(tokens):
            named[f"{role}_token"] = AddedToken(tokens[number], normalized=False, special=True)
    bos = model.value("tokenizer.ggml.bos_token_id")
    # llama.cpp's own rule where the file does not say.
    starts = kind == "llama" or model.value(SPLIT_NAME) in LLAMA3_NAMES
    if bos is not None and model.value("tokenizer.ggml.add_bos_token", starts):
        core.post_processor = processors.TemplateProcessing(
            single=[tokens[bos], "$A"], special_tokens=[(tokens[bos], bos)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=model.value("tokenizer.chat_template"), **named
    )


def _byte_level(model: GgufModel, tokens: list[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name = model.value(SPLIT_NAME, "gpt-2")
    merges = [tuple(merge.split(" ")) for merge in model.value("tokenizer.ggml.merges", [])]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in LLAMA3_NAMES))
    split = SPLITS.get(name)
    # Where only digits are split off, the rest is split as GPT-2 does.
    split_first = split is not None and name != "smollm"
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split_first)]
    if split is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(split), behavior="isolated"))
    core.pre_tokenizer = pre_tokenizers.Sequence(steps)
    core.decoder = decoders.ByteLevel()
    if split is QWEN2 and name != "stablelm2":
        core.normalizer = normalizers.NFC()
    return core


def _sentencepiece(model: GgufModel, tokens: list[str]) -> Any:
    """Build the BPE of a SentencePiece vocabulary, whose merges are implied by its scores."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    gemma = model.architecture.startswith("gemma")
    scores = model.value("tokenizer.ggml.scores")
    if gemma:
        # Runs of spaces are stored as such, and merges follow the order of tokens, not the scores.
        tokens = ["\u2581" * len(t) if " " in t and not t.strip() else t for t in tokens]
        scores = None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    ranked = []
    for number, token in enumerate(tokens):
        rank = number if scores is None else -scores[number]
        for cut in range(1, len(token)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                ranked.append((rank, left, right))
    merges = [(tokens[left], tokens[right]) for _, left, right in sorted(ranked)]
    unknown = model.value("tokenizer.ggml.unknown_token_id")
    core = Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(model.value("tokenizer.ggml.add_space_prefix", not gemma))
    scheme = "first" if prefix else "never"
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    return core
