"""Load a language model's body: from the hub, from a folder or package in Hugging Face layout, or random when asked."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError  # what torch raises where a .bin holds more than tensors
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from forecasting.errors import InvalidSetting, NotFound, WeightsUnavailable
from forecasting.prompts import PromptSpec, longest_prompt, unpadded
from forecasting.windows import WindowShape
from trainer.catalogue import Backbone, nearest_names
from trainer.settings import ModelSettings

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
HUB_PATTERNS = ["*.json", "*.txt", "*.model", "model*.safetensors"]
OLD_WEIGHTS = "pytorch_model.bin"  # read by torch as plain tensors (weights_only), where there is nothing else
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt", "vocab.json")
PADDING_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")  # the first that a tokenizer knows
UNUSED = ("pooler.", "lm_head", "cls.", "position_ids", "predictions.", "qa_outputs")  # heads we never run

transformers_logging.disable_progress_bar()  # a small bar of its own for every load
transformers_logging.set_verbosity_error()  # what was loaded is checked here, strictly


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone ready for use.

    embed_dim: width taken in; hidden_dim: width given out (they differ for ALBERT and MobileBERT)
    origin:    where the weights come from, with their digest; part of a bundle's origin.json
    """

    model: Any
    tokenizer: Tokenizer | None
    embed_dim: int
    hidden_dim: int
    origin: dict[str, str]

    @property
    def word_embeddings(self) -> Tensor:
        """(vocabulary, embed_dim). The vocabulary is read here: tokenizers may be smaller."""
        return self.model.get_input_embeddings().weight  # type: ignore[no-any-return]


def load_backbone(entry: Backbone, settings: ModelSettings, seed: int) -> LoadedBackbone:
    """Load what `settings.weights` says: hub, random, a folder, or package:NAME/FOLDER of an installed package.

    Raises WeightsUnavailable, NotFound or InvalidSetting in one sentence; random weights are never a fallback.
    """
    if settings.weights == "random":
        return _random_backbone(entry, settings, seed)
    folder = find_weights(entry, settings.weights)
    config = read_config(entry, folder)
    _keep_layers(config, settings.num_layers, entry)
    model = _load_strictly(folder, config, getattr(torch, settings.dtype))
    tokenizer = None
    if settings.prompt != "none":
        tokenizer = _load_tokenizer(folder, config)
    origin = {"weights": _describe(settings.weights), "sha256": digest_of_weights(folder), "tokenizer": "its own"}
    return _loaded(model, tokenizer, origin)


def check_backbone_settings(entry: Backbone, settings: ModelSettings) -> None:
    """Everything that can be wrong with a backbone, found before anything is trained; fetches what the hub holds.

    Raises what `load_backbone` would, without loading the weights.
    """
    if settings.weights == "random":
        _keep_layers(true_config(entry), settings.num_layers, entry)
        return
    folder = find_weights(entry, settings.weights)
    config = read_config(entry, folder)
    _keep_layers(config, settings.num_layers, entry)
    if settings.prompt != "none":
        _check_vocabulary(_load_tokenizer(folder, config), config.vocab_size, settings.backbone)


def find_weights(entry: Backbone, weights: str) -> Path:
    """The folder in Hugging Face layout that `weights` means; downloads from the hub where it says so.

    A custom backbone that is a folder brings its own weights.
    """
    if weights == "hub" and entry.is_custom and Path(entry.repository).expanduser().is_dir():
        weights = entry.repository
    if weights == "hub":
        return _checked_folder(_download(entry.repository), entry.repository)
    folder = _package_folder(weights) if weights.startswith("package:") else Path(weights).expanduser()
    if not folder.is_dir():
        raise NotFound(f"there is no folder {weights}; give hub, random, or a folder in Hugging Face layout")
    return _checked_folder(folder, weights)


def _checked_folder(folder: Path, name: str) -> Path:
    if not (folder / "config.json").is_file() or not any((folder / file).is_file() for file in WEIGHT_FILES):
        raise InvalidSetting(f"{name} is no model folder: it needs config.json and one of {', '.join(WEIGHT_FILES)}")
    return folder


def prompt_of(settings: ModelSettings, backbone: LoadedBackbone, shape: WindowShape) -> PromptSpec:
    """The prompt a model reads, long enough for the longest one its template can write."""
    if settings.prompt == "none":
        return PromptSpec()
    assert backbone.tokenizer is not None  # loaded whenever there is a prompt
    length = longest_prompt(backbone.tokenizer, shape, settings.prompt)
    pads = (backbone.tokenizer.token_to_id(token) for token in PADDING_TOKENS)
    pad = next((token for token in pads if token is not None), 0)
    _check_vocabulary(backbone.tokenizer, len(backbone.word_embeddings), settings.backbone)
    return PromptSpec(kind=settings.prompt, length=length, pad_id=pad)


def _check_vocabulary(tokenizer: Tokenizer, embedded: int, name: str) -> None:
    if tokenizer.get_vocab_size() > embedded:
        raise InvalidSetting(
            f"the tokenizer knows {tokenizer.get_vocab_size()} tokens, {name} embeds {embedded}; "
            "take the tokenizer that belongs to the weights"
        )


def read_config(entry: Backbone, folder: Path) -> PreTrainedConfig:
    """The configuration of a folder, checked against the catalogue where the backbone is one of ours."""
    try:
        if entry.is_custom:
            return AutoConfig.from_pretrained(folder, local_files_only=True)
        facts = json.loads((folder / "config.json").read_text())
        # older repositories do not say which kind they are; the catalogue knows
        config = AutoConfig.for_model(facts.pop("model_type", entry.model_type), **facts)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSetting(f"{folder.name} has no usable config.json: {str(error).splitlines()[0]}") from error
    check_config(entry, config, folder.name)
    return config


def check_config(entry: Backbone, config: PreTrainedConfig, folder: str) -> None:
    """Raises InvalidSetting where a folder holds another model than the one that was named."""
    if config.model_type != entry.model_type:
        raise InvalidSetting(f"{folder} holds a {config.model_type} model, {entry.label} is a {entry.model_type}")
    for key, expected in entry.config.items():
        found = getattr(config, key, None)
        if found != expected:
            raise InvalidSetting(
                f"{folder} has {key} {found}, {entry.label} has {expected}; name the backbone that the folder holds"
            )


def weights_digest(entry: Backbone, settings: ModelSettings) -> str:
    """What the weights are, for the key of a kept result: a folder may change under its name."""
    return "random" if settings.weights == "random" else digest_of_weights(find_weights(entry, settings.weights))


def digest_of_weights(folder: Path) -> str:
    """sha256 over configuration, tokenizer and weight files, in order of name."""
    sha = hashlib.sha256()
    named = ("config.json", *TOKENIZER_FILES)
    for path in sorted(
        p for p in folder.iterdir() if p.name in named or p.suffix in (".safetensors", ".bin", ".model")
    ):
        sha.update(path.name.encode())
        stamp = path.stat()
        sha.update(_digest_of_file(path, stamp.st_size, stamp.st_mtime_ns))
    return sha.hexdigest()


@cache
def _digest_of_file(path: Path, size: int, changed: int) -> bytes:
    """Read again only where size or time of change differ: every trial of a sweep asks for the same weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _random_backbone(entry: Backbone, settings: ModelSettings, seed: int) -> LoadedBackbone:
    config = true_config(entry)
    _keep_layers(config, settings.num_layers, entry)
    torch.manual_seed(seed)
    model = AutoModel.from_config(config, dtype=getattr(torch, settings.dtype))
    tokenizer = build_tokenizer() if settings.prompt != "none" else None
    origin = {"weights": f"random, seed {seed}", "tokenizer": "built for the prompt template" if tokenizer else "none"}
    return _loaded(model, tokenizer, origin)


def true_config(entry: Backbone) -> PreTrainedConfig:
    """The configuration at true size: the catalogue's facts, or the config.json of a custom folder."""
    if not entry.is_custom:
        return AutoConfig.for_model(entry.model_type, **entry.config)
    return read_config(entry, find_weights(entry, entry.repository if Path(entry.repository).is_dir() else "hub"))


def _loaded(model: Any, tokenizer: Tokenizer | None, origin: dict[str, str]) -> LoadedBackbone:
    model.eval()
    model.config.use_cache = False  # decoders would return keys and values that nothing reads
    if hasattr(model, "pooler"):
        model.pooler = None  # reads [CLS] alone; nothing here does
    width = model.get_input_embeddings().weight.shape[1]
    return LoadedBackbone(model, tokenizer, width, model.config.hidden_size, origin)


def _load_strictly(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> Any:
    """Load every tensor or refuse: a half-loaded model trains, and nobody notices."""
    try:
        model, info = AutoModel.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise InvalidSetting(f"{folder.name} cannot be loaded: {str(error).splitlines()[0]}") from error
    lost = [k for k in [*info["missing_keys"], *info["mismatched_keys"]] if not any(u in str(k) for u in UNUSED)]
    if lost:
        raise InvalidSetting(f"{folder.name} lacks tensor {lost[0]} or has it in another shape; restore the folder")
    return model


def _load_tokenizer(folder: Path, config: PreTrainedConfig) -> Tokenizer:
    try:
        return unpadded(AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True).backend_tokenizer)
    except Exception as error:
        raise InvalidSetting(f"{folder.name} has no usable tokenizer: {str(error).splitlines()[0]}") from error


def _keep_layers(config: PreTrainedConfig, num_layers: int | None, entry: Backbone) -> None:
    if num_layers is None:
        return
    if num_layers > config.num_hidden_layers:
        raise InvalidSetting(
            f"num_layers is {num_layers}, {entry.label} has {config.num_hidden_layers}; ask for at most that many"
        )
    config.num_hidden_layers = num_layers


@cache
def _download(repository: str) -> Path:
    """A repository's snapshot in the hub's cache; asked for once, so that one run sees one state of it."""
    try:
        folder = Path(snapshot_download(repository, allow_patterns=HUB_PATTERNS, etag_timeout=10))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(repository, allow_patterns=[*HUB_PATTERNS, OLD_WEIGHTS], etag_timeout=10))
        return folder
    except (OSError, ValueError, HfHubHTTPError) as error:
        near = nearest_names(repository)
        hint = f" (did you mean {' or '.join(near)}?)" if near and repository.lower() not in near else ""
        raise WeightsUnavailable(
            f"the weights of {repository} cannot be fetched from the model hub{hint} ({type(error).__name__}); "
            "give a folder in Hugging Face layout, or ask for random weights with the value 'random'"
        ) from error


def _package_folder(weights: str) -> Path:
    name, _, rest = weights.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise NotFound(f"the Python package {name} is not installed; install it, or give a folder or 'random'")
    return Path(found.origin).parent / rest


def _describe(weights: str) -> str:
    """Where weights came from, without naming a folder of this machine."""
    return weights if weights == "hub" or weights.startswith("package:") else f"folder {Path(weights).name}"


def build_tokenizer() -> Tokenizer:
    """A WordPiece tokenizer of the prompt template's words and of digits, for weights that come without one."""
    words = ["glucose", "next", "last", "mean", "min", "max", "up", "down", ":", ".", "-", "data", "continuous"]
    words += ["readings", "task", "forecast", "the", "steps", "from", "input", "median", "trend", "lags"]
    digits = [str(d) for d in range(10)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *digits, *(f"##{d}" for d in digits)]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return tokenizer
