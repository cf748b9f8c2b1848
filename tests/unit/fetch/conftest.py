import pytest
from fetch_bench import REPOSITORY, Bench, random_bytes
from fetch_hub import running_hub


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


@pytest.fixture
def files(hub) -> dict[str, bytes]:
    """A tiny model in the hub: a config, a tokenizer in a folder, two files of weights."""
    content = {
        "config.json": b'{"model_type": "tiny"}',
        "tokenizer/vocab.txt": b"a\nb\n",
        "model-1.safetensors": random_bytes(3_000_000, 1),
        "model-2.safetensors": random_bytes(70_000, 2),
    }
    hub.repositories[REPOSITORY] = dict(content)
    return content


@pytest.fixture
def bench(tmp_path, hub, monkeypatch, caplog) -> Bench:
    for name in ("RECAP_MIRROR", "RECAP_OFFLINE", "MODELSCOPE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Bench(tmp_path, hub, caplog)
