"""Repositories with realistic names and sizes, for the demonstration and for people's own experiments.

Everything is generated: the same names, bytes and ids on every machine.
"""

from __future__ import annotations

import json

from fetcher.testing.contents import ContentLike, Synthetic
from fetcher.testing.hub.server import Hub

MIB = 1 << 20

DEMO_MODEL = "acme/tiny-llama"
DEMO_DATASET = "acme/tiny-instruct"
DEMO_PRIVATE_MODEL = "acme/house-adapter"
DEMO_GATED_MODEL = "acme/signed-llama"
DEMO_TOKEN = "hf_demo_only_good_for_the_embedded_hub"
"""Opens the private and the gated repository of a hub made with ``tokens={DEMO_TOKEN: "demo"}``."""


def add_demo_repos(hub: Hub, *, model_bytes: int = 240 * MIB) -> None:
    """Add the demonstration's repositories: a sharded model, a dataset, a private and a gated model.

    ``model_bytes`` is the size of the model's weights; everything else together is below 10 MiB.
    """
    model = model_files(model_bytes)
    repo = hub.add_repo(DEMO_MODEL, files=model)
    repo.tags["v1.0"] = repo.head
    hub.commit(repo, {"README.md": _readme("tiny-llama", "The second edition of this text.")}, title="Update README.md")
    dataset: dict[str, ContentLike] = {
        f"data/train-0000{n}-of-00002.parquet": Synthetic(MIB, 100 + n) for n in range(2)
    }
    dataset |= {".gitattributes": _GITATTRIBUTES, "README.md": _readme("tiny-instruct", "Question and answer.")}
    hub.add_repo(DEMO_DATASET, kind="datasets", files=dataset)
    adapter: dict[str, ContentLike] = {
        "README.md": _readme("house-adapter", "For the house only."),
        "adapter_config.json": _json({"peft_type": "LORA", "r": 8, "base_model_name_or_path": DEMO_MODEL}),
        "adapter_model.safetensors": Synthetic(3 * MIB + 17, 200),
    }
    hub.add_repo(DEMO_PRIVATE_MODEL, files=adapter, private=True)
    hub.add_repo(DEMO_GATED_MODEL, files=model_files(2 * MIB, shards=1), gated=True)


def model_files(weight_bytes: int, *, shards: int = 4, seed: int = 0) -> dict[str, ContentLike]:
    """Return the files of a language model: weights in ``shards`` large files, and some twenty small ones."""
    files: dict[str, ContentLike] = {
        ".gitattributes": _GITATTRIBUTES,
        "LICENSE": "Public domain. These weights are noise.\n",
        "README.md": _readme("tiny-llama", "A model of nothing at all."),
        "USE_POLICY.md": "# Use\n\nDo with it what you like.\n",
        "added_tokens.json": _json({"<|pad|>": 32000, "<|image|>": 32001}),
        "chat_template.jinja": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\n",
        "config.json": _json(_CONFIG),
        "generation_config.json": _json({"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.6, "top_p": 0.9}),
        "merges.txt": "#version: 0.2\n" + "".join(f"t{n} h{n}\n" for n in range(8000)),
        "preprocessor_config.json": _json({"do_resize": True, "size": {"height": 336, "width": 336}}),
        "special_tokens_map.json": _json({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
        "tokenizer.json": _json({"version": "1.0", "model": {"type": "BPE", "vocab": _vocabulary(32000)}}),
        "tokenizer.model": Synthetic(499_723, seed + 50),
        "tokenizer_config.json": _json({"model_max_length": 4096, "tokenizer_class": "LlamaTokenizer"}),
        "training_args.bin": Synthetic(5_304, seed + 51),
        "vocab.json": _json(_vocabulary(8000)),
        "figures/loss.csv": "step,loss\n" + "".join(f"{n},{4 / (1 + n / 50):.4f}\n" for n in range(2000)),
        "figures/loss.png": Synthetic(48_213, seed + 52),
        "original/params.json": _json({"dim": 512, "n_layers": 8, "n_heads": 8, "vocab_size": 32000}),
        "original/empty_on_purpose": b"",
    }
    width = -(-weight_bytes // shards)
    weight_map: dict[str, str] = {}
    for index in range(shards):
        name = f"model-{index + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        files[name] = Synthetic(min(width, weight_bytes - index * width), seed + index)
        weight_map[f"model.layers.{index}.weight"] = name
    if shards > 1:
        index_file = {"metadata": {"total_size": weight_bytes}, "weight_map": weight_map}
        files["model.safetensors.index.json"] = _json(index_file)
    return files


_GITATTRIBUTES = "".join(
    f"{glob} filter=lfs diff=lfs merge=lfs -text\n" for glob in ("*.safetensors", "*.bin", "*.model", "*.parquet")
)

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 1376,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}


def _vocabulary(size: int) -> dict[str, int]:
    return {f"token{number:05}": number for number in range(size)}


def _readme(name: str, text: str) -> str:
    return f"---\nlicense: other\n---\n\n# {name}\n\n{text} Generated for the demonstration; it says nothing.\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
