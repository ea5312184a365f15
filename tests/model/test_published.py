"""Every resource object that was found published (facts/nosana.md, 4), each with what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from fetcher.model.job import parse_job
from fetcher.model.mount import MountRequest
from fetcher.model.ollama import TARGET_DEFAULT
from fetcher.model.resource import HF, S3, Ollama, Resource
from fetcher.model.s3 import S3Location
from fetcher.model.secret import AWSKeys, Secret

NOSANA = "https://models.nosana.io"
WAN_1 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
WAN_2 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
LORAS = [f"split_files/loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_{noise}.safetensors" for noise in ("high", "low")]
SD15 = [f"sd15-{number}.safetensors" for number in range(24)]
SDXL = [f"sdxl-{number}.safetensors" for number in range(31)]
CONTROL_NETS = [f"control_{number}.safetensors" for number in range(14)]
META_LLAMA = "hugging-face/llama3.1/70b/4x/models--hugging-quants--Meta-Llama-3.1-70B-Instruct-AWQ-INT4"
DISTILL = "models--deepseek-ai--DeepSeek-R1-Distill-Qwen-32B/snapshots/10d6a038"


def mounts(*resources: object, **variables: object) -> tuple[MountRequest, ...]:
    """What a job of one op asks for, nothing deferred."""
    op = {"id": "run", "type": "container/run", "args": {"image": "x", "resources": list(resources)}}
    found = parse_job({"version": "0.1", "type": "container", "global": {"variables": variables}, "ops": [op]})
    assert not found.deferred
    return found.mounts


def hf(repo: str, target: str, *files: str) -> dict[str, Any]:
    return {"type": "HF", "repo": repo, "target": target, **({"files": list(files)} if files else {})}


def s3(url: str, target: str, **more: object) -> dict[str, Any]:
    return {"type": "S3", "url": url, "target": target, **more}


ROWS: list[tuple[str, dict[str, Any], Resource, str, bool]] = [
    (
        "1",
        hf("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "/data-models/"),
        HF("TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        "/data-models",
        True,
    ),
    (
        "2",
        hf("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "/data-models/", "model.safetensors"),
        HF("TinyLlama/TinyLlama-1.1B-Chat-v1.0", files=("model.safetensors",)),
        "/data-models",
        True,
    ),
    (
        "3",
        hf(
            WAN_1,
            "/comfyui/models/text_encoders/",
            "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        ),
        HF(WAN_1, files=("split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",)),
        "/comfyui/models/text_encoders",
        True,
    ),
    (
        "4",
        hf(WAN_2, "/comfyui/models/vae/", "split_files/vae/wan_2.1_vae.safetensors"),
        HF(WAN_2, files=("split_files/vae/wan_2.1_vae.safetensors",)),
        "/comfyui/models/vae",
        True,
    ),
    (
        "5",
        hf(
            WAN_2,
            "/comfyui/models/diffusion_models/",
            "split_files/diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
            "split_files/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
        ),
        HF(
            WAN_2,
            files=(
                "split_files/diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
                "split_files/diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
            ),
        ),
        "/comfyui/models/diffusion_models",
        True,
    ),
    ("6", hf(WAN_2, "/comfyui/models/loras/", *LORAS), HF(WAN_2, files=tuple(LORAS)), "/comfyui/models/loras", True),
    (
        "7",
        s3(f"{NOSANA}/stable-diffusion/1.5", "/stable-diffusion-webui/models/Stable-diffusion"),
        S3.at(f"{NOSANA}/stable-diffusion/1.5"),
        "/stable-diffusion-webui/models/Stable-diffusion",
        True,
    ),
    (
        "8",
        s3(f"{NOSANA}/stable-diffusion/sd-xl", "/comfyui/models/checkpoints"),
        S3.at(f"{NOSANA}/stable-diffusion/sd-xl"),
        "/comfyui/models/checkpoints",
        True,
    ),
    (
        "9",
        s3(f"{NOSANA}/flux/schnell", "/comfyui/models/checkpoints"),
        S3.at(f"{NOSANA}/flux/schnell"),
        "/comfyui/models/checkpoints",
        True,
    ),
    (
        "10",
        s3(
            f"{NOSANA}/hugging-face/deepseek/janus/models-deepseek-ai-Janus-Pro-7B",
            "/Janus/models/models--deepseek-ai--Janus-Pro-7B",
            allowWrite=True,
        ),
        S3.at(f"{NOSANA}/hugging-face/deepseek/janus/models-deepseek-ai-Janus-Pro-7B"),
        "/Janus/models/models--deepseek-ai--Janus-Pro-7B",
        False,
    ),
    (
        "11",
        s3(f"{NOSANA}/foldingAtHome", "/config/", allowWrite=True),
        S3.at(f"{NOSANA}/foldingAtHome"),
        "/config",
        False,
    ),
    (
        "13",
        s3(f"s3://nos-ai-models-qllsn32u/{META_LLAMA}", "/app/models/"),
        S3.at(f"{NOSANA}/{META_LLAMA}"),
        "/app/models",
        True,
    ),
    (
        "14",
        s3(
            f"{NOSANA}/hugging-face/llama3.1/8b/models--unsloth--Meta-Llama-3.1-8B",
            "/root/.cache/huggingface/hub/models--unsloth--Meta-Llama-3.1-8B",
        ),
        S3.at(f"{NOSANA}/hugging-face/llama3.1/8b/models--unsloth--Meta-Llama-3.1-8B"),
        "/root/.cache/huggingface/hub/models--unsloth--Meta-Llama-3.1-8B",
        True,
    ),
    (
        "15",
        s3(f"{NOSANA}/templates/lmdeploy/chat", "/root/templates/"),
        S3.at(f"{NOSANA}/templates/lmdeploy/chat"),
        "/root/templates",
        True,
    ),
    (
        "16",
        s3(
            "https://ai.r2.cloudflarestorage.com/ai-model/entrypoint",
            "/entrypoint",
            bucket="ai-model",
            IAM={"REGION": "auto", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"},
        ),
        S3.at(
            "https://ai.r2.cloudflarestorage.com/ai-model/entrypoint",
            bucket="ai-model",
            keys=AWSKeys("id", Secret("key"), region="auto"),
        ),
        "/entrypoint",
        True,
    ),
    (
        "17",
        s3(
            "https://pub-5bc58981af9f42659ff8ada57bfea92c.r2.dev/controlnets",
            "/data-models/ControlNet",
            files=["control_v11e_sd15_ip2p_fp16.safetensors"],
        ),
        S3.at(
            "https://pub-5bc58981af9f42659ff8ada57bfea92c.r2.dev/controlnets",
            "control_v11e_sd15_ip2p_fp16.safetensors",
        ),
        "/data-models/ControlNet",
        True,
    ),
    (
        "18",
        s3("https://nosana.mypinata.cloud/ipfs/", "/srv", files=["Qme6oMs"], allowWrite=True),
        S3.at("https://nosana.mypinata.cloud/ipfs/", "Qme6oMs"),
        "/srv",
        False,
    ),
    (
        "19",
        s3(
            "https://safetensor.sogni.ai/controlnets",
            "/data-models/ControlNet/",
            files=CONTROL_NETS[::-1],
            allowWrite=True,
        ),
        S3.at("https://safetensor.sogni.ai/controlnets", *CONTROL_NETS),
        "/data-models/ControlNet",
        False,
    ),
    (
        "20",
        {
            "type": "S3",
            "buckets": [
                {"url": "https://safetensor.sogni.ai/Sogni+Supported+SD1.5", "files": SD15},
                {"url": "https://safetensor.sogni.ai/Sogni+Supported+SDXL", "files": SDXL},
            ],
            "target": "/data-models/Stable-diffusion",
            "allowWrite": True,
        },
        S3(
            (
                S3Location("https://safetensor.sogni.ai/Sogni+Supported+SD1.5", tuple(SD15)),
                S3Location("https://safetensor.sogni.ai/Sogni+Supported+SDXL", tuple(SDXL)),
            )
        ),
        "/data-models/Stable-diffusion",
        False,
    ),
    (
        "21",
        s3(f"{NOSANA}/hugging-face/deepseek-r1/32b/{DISTILL}", "/root/models"),
        S3.at(f"{NOSANA}/hugging-face/deepseek-r1/32b/{DISTILL}"),
        "/root/models",
        True,
    ),
    (
        "22",
        s3(f"{NOSANA}/hugging-face/qwen2/models--Qwen--Qwen2.5-72B-Instruct-AWQ", "/data-models/qwen"),
        S3.at(f"{NOSANA}/hugging-face/qwen2/models--Qwen--Qwen2.5-72B-Instruct-AWQ"),
        "/data-models/qwen",
        True,
    ),
    ("24", {"type": "Ollama", "model": "tinyllama"}, Ollama.of("library/tinyllama:latest"), TARGET_DEFAULT, True),
]
"""Row, object, and what it must become: resource, target, read-only. Rows of several objects have their own tests."""


@pytest.mark.parametrize(
    ("item", "resource", "target", "read_only"), [row[1:] for row in ROWS], ids=[f"row {row[0]}" for row in ROWS]
)
def test_objects(item: dict[str, Any], resource: Resource, target: str, read_only: bool) -> None:
    (mount,) = mounts(item)
    assert (mount.resource, mount.target, mount.read_only) == (resource, target, read_only)


def test_row_12_a_script_and_a_model_that_is_a_variable() -> None:
    model = {"type": "Ollama", "model": "%%global.variables.OPENCLAW_MODEL%%"}
    script = s3(f"{NOSANA}/OpenClaw", "/root/entrypoint")
    found = mounts(script, model, OPENCLAW_MODEL="qwen3.6:27b")
    assert [(mount.resource, mount.target) for mount in found] == [
        (S3.at(f"{NOSANA}/OpenClaw"), "/root/entrypoint"),
        (Ollama.of("qwen3.6:27b"), TARGET_DEFAULT),
    ]


def test_row_23_three_in_one_op() -> None:
    places = [("resources", "/root/models"), ("inputs", "/root/inputs"), ("entrypoint", "/custom-scripts")]
    found = mounts(*(s3(f"{NOSANA}/rubians/{name}", target) for name, target in places))
    assert {mount.target: mount.resource for mount in found} == {
        target: S3.at(f"{NOSANA}/rubians/{name}") for name, target in places
    }


@pytest.mark.parametrize(
    "model",
    [
        *("gpt-oss:20b", "gpt-oss:120b", "gemma3:27b-it-qat", "gemma4:e2b", "gemma4:31b", "qwen3.5:9b"),
        *("qwen3.6:35b-a3b", "glm-4.7-flash:q4_K_M", "glm-4.7-flash:bf16", "laguna-s-2.1:q4_k_m", "ornith:9b"),
    ],
)
def test_row_24_models_of_the_templates(model: str) -> None:
    (mount,) = mounts({"type": "Ollama", "model": "%%global.variables.MODEL%%"}, MODEL=model)
    assert mount.resource == Ollama.of(model)
    assert mount.resource.uri() == f"ollama://{model}"


def test_row_25_what_an_earlier_op_will_tell() -> None:
    item = s3("s3://my-bucket/stories/%%ops.story.results.slug%%", "/upload")
    document = {"ops": [{"id": "story", "args": {}}, {"id": "use", "args": {"resources": [item]}}]}
    resources = parse_job(document)
    (deferred,) = resources.deferred
    assert not resources.mounts
    assert (deferred.op, deferred.at) == ("use", "$.ops[1].args.resources[0]")
    assert deferred.reason == "known only when op story has run (%%ops.story.results.slug%%)"


def test_the_example_of_literals_spreads_models_of_an_earlier_op() -> None:
    spread = {"__spread__": "%%ops.models.results.resources%%"}
    document = {"ops": [{"id": "models", "args": {}}, {"id": "use", "args": {"resources": [spread]}}]}
    (deferred,) = parse_job(document).deferred
    assert "op models" in deferred.reason


def test_one_repo_many_targets() -> None:
    """The whole Wan2.2 template: four objects of two repos, side by side."""
    items = [row[1] for row in ROWS if row[0] in ("3", "4", "5", "6")]
    assert [mount.resource.uri() for mount in mounts(*items)] == [f"hf://{WAN_1}@main", *[f"hf://{WAN_2}@main"] * 3]
