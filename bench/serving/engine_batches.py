"""Measure how the tokenizer of ``--engine`` repositories fills the batches of a network on a GPU.

``python -m bench.serving.engine_batches --clients 32``

The tokenizer, its configuration and the server are real. The network is a stub: a Python model that sleeps as long as a
small encoder takes on a GPU, hardly longer for a full batch. The rows differ in how many requests the server can batch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from care_accel.serving.repository.config import read_config, write_model
from care_accel.serving.repository.engines import lengths_for, write_engine_repository
from care_accel.serving.tritonserver.server import Server

NETWORK = """import os, site, time
any(map(site.addsitedir, filter(None, os.environ.get("CARE_ACCEL_SITE", "").split(os.pathsep))))
import numpy as np
import triton_python_backend_utils as server

class TritonPythonModel:
    def execute(self, requests):
        ids = [server.get_input_tensor_by_name(request, "input_ids").as_numpy() for request in requests]
        time.sleep(2e-3 + 5e-7 * sum(one.size for one in ids))
        return [
            server.InferenceResponse([server.Tensor("vectors", np.zeros((len(one), 256), np.float32))]) for one in ids
        ]
"""
CHARACTERS = "高血压怎么治糖尿病吃什么药感冒发热头痛咳嗽胃炎骨折"
FINE, DOUBLINGS = lengths_for(512, gpu=False), lengths_for(512, gpu=True)


def prepare(written: Path, place: Path, lengths: list[int] | None) -> None:
    """Copy a repository with the stub network; ``lengths`` pads each request to its own length, None as written."""
    shutil.copytree(written, place)
    network = read_config(place / "query_network" / "config.pbtxt")
    network.platform, network.backend = "", "python"
    network.ClearField("optimization")
    del network.instance_group[:]
    write_model(place, network, {"1/model.py": NETWORK})
    if lengths is not None:
        tokenizer = read_config(place / "query_tokenizer" / "config.pbtxt")
        tokenizer.parameters["lengths"].string_value = json.dumps(lengths)
        tokenizer.parameters["stretch"].string_value = "1"
        tokenizer.dynamic_batching.max_queue_delay_microseconds = 0
        write_model(place, tokenizer)


async def load(address: str, texts: list[bytes], clients: int, seconds: float) -> tuple[list[float], float]:
    """Return the seconds that each request took, and the mean batch of the network."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    async with InferenceServerClient(address) as client:

        async def ask(first: int) -> None:
            place = first
            while (begun := time.perf_counter()) < end:
                given = InferInput("TEXT", [1, 1], "BYTES")
                given.set_data_from_numpy(np.array([[texts[place % len(texts)]]], dtype=np.object_))
                await client.infer("query_encoder", [given])
                took.append(time.perf_counter() - begun)
                place += clients

        await asyncio.gather(*map(ask, range(clients)))
        statistics = await client.get_inference_statistics("query_network", as_json=True)
    (model,) = statistics["model_stats"]
    return took, int(model["inference_count"]) / int(model["execution_count"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "written"
        write_engine_repository(written, engine="onnxruntime", roles=["query"], gpu=True)
        for shortest, longest in ((8, 30), (10, 120)):
            texts = [
                "".join(chance.choices(CHARACTERS, k=chance.randint(shortest, longest))).encode()
                for _ in range(500)
            ]
            print(f"texts of {shortest} to {longest} characters")
            before = 0.0
            rows = {"own length, fine": FINE, "own length, doublings": DOUBLINGS, "as written": None}
            for name, lengths in rows.items():
                place = Path(folder) / "served"
                prepare(written, place, lengths)
                with Server(place) as server:
                    alone, _ = asyncio.run(load(server.grpc, texts, 1, options.seconds))
                with Server(place) as server:
                    took, batch = asyncio.run(load(server.grpc, texts, options.clients, options.seconds))
                shutil.rmtree(place)
                rate = len(took) / options.seconds
                before = before or rate
                print(
                    f"  {name:22} {rate:6.0f}/s (x{rate / before:.1f}), batches of {batch:.1f}, p50 "
                    f"{1e3 * np.median(took):.1f}, p99 {1e3 * np.percentile(took, 99):.1f} ms; "
                    f"alone p50 {1e3 * np.median(alone):.1f} ms"
                )


if __name__ == "__main__":
    main()
