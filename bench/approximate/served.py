"""A served approximate collection under load with upserts: the metric ``care_recall`` beside the true recall of what was answered.

    python -m bench.approximate.served --documents 30000 --width 128 --seconds 60

Vectors are clustered and random, without a model: the server's ``scan`` gets vectors. Clients send one query after another, while documents
are written to the collection. The true recall is that of every answer, by the scores of all documents. An upsert is live half a second
after its commit, so that which documents an answer could have is known but for the newest: the true recall is given for both.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc

from bench.scan.test_scan import clustered
from care_accel import Collection
from care_accel.encoding.base import BaseDualEncoder, BaseEncoder, EncodeCounts
from care_accel.encoding.spec import EncoderSpec
from care_accel.serving.repository.config import model_file, write_model
from care_accel.serving.repository.python_backend import scan_config
from care_accel.serving.tritonserver.server import Server

# Rounding of a product in float32, by which two scores may differ that are equal.
_ROUNDING = 1e-6
# Seconds from a commit until every answer has it.
_LIVE_S = 2.0


class Given(BaseDualEncoder):
    """A dual encoder of texts that are numbers of given vectors."""

    name, symmetric = "given", True

    def __init__(self, vectors):
        self.vectors, self.width = vectors, vectors.shape[1]

    def encoder(self, role):
        return _GivenEncoder(self)

    def spec(self, role):
        return EncoderSpec(pooling="first", order="normalize-then-slice", width=self.width)

    def revision(self, role):
        return "sha256:given"

    def choice(self, role):
        raise NotImplementedError

    def provenance(self, role):
        raise NotImplementedError

    def _explanation(self):
        return []


class _GivenEncoder(BaseEncoder):
    def __init__(self, model):
        self.model, self.spec, self.counts = model, model.spec("document"), EncodeCounts()

    def _encode(self, texts, task, batch_size, token_budget, advance):
        return self.model.vectors[[int(text) for text in texts]]

    def encode_timed(self, texts, task="retrieval"):
        return self._encode(texts, task, 0, 0, None), 0.0, 0.0


def metrics(server):
    """Return what the metrics page shows of the recall."""
    page = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    return tuple(
        float(re.search(rf"^{name}{{.*}} (\S+)", page, re.MULTILINE)[1])
        for name in ("care_recall", "care_recall_queries_total")
    )


def ask(address, queries, until, answers, k):
    """Send queries one by one; note times, number and scores of each."""
    with grpc.InferenceServerClient(address) as client:
        for number in np.random.default_rng().integers(0, len(queries), 10**6):
            begun = time.monotonic()
            if begun > until:
                return
            inputs = [
                grpc.InferInput("EMBEDDING", [1, queries.shape[1]], "FP32"),
                grpc.InferInput("K", [1, 1], "INT32"),
            ]
            inputs[0].set_data_from_numpy(queries[number : number + 1])
            inputs[1].set_data_from_numpy(np.array([[k]], np.int32))
            scores = client.infer("scan", inputs).as_numpy("SCORES")[0]
            answers.append((begun, time.monotonic(), number, scores))


def true_recalls(answers, queries, vectors, commits, k):
    """Return the mean recall by the documents that an answer had at least, and by those that it had at most, and the standard deviation."""
    times, counts = (np.array(column) for column in zip(*commits, strict=True))
    found = []
    for begun, ended, number, scores in answers:
        every = vectors @ queries[number]
        both = []
        for moment in (begun - _LIVE_S, ended):
            visible = counts[max(np.searchsorted(times, moment, side="right") - 1, 0)]
            least = np.partition(every[:visible], -k)[-k]
            both.append(min((scores >= least - _ROUNDING).sum(), k) / k)
        found.append(both)
    found = np.array(found)
    return (*sorted(found.mean(axis=0)), found.std())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=30_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--upserts", type=int, default=50, help="documents written each second")
    parser.add_argument("--every", type=int, default=10, help="check every so many queries")
    options = parser.parse_args()
    total = options.documents + int(options.upserts * (options.seconds + 5))
    made = clustered(np.random.default_rng(0), total + 5_000, options.width)
    vectors, given, queries = np.split(made, [total, total + 3_000])
    model = Given(np.concatenate([vectors, given]))
    with tempfile.TemporaryDirectory() as temporary:
        collection = Collection.create(Path(temporary) / "collection", model)

        def write(first, last):
            collection.upsert([{"id": f"d{i}", "text": str(i)} for i in range(first, last)])

        write(0, options.documents)
        collection.choose_index(
            options.recall, options.k, queries=[str(total + i) for i in range(len(given))], budget="2 min"
        )
        print(collection.explain())
        repository = Path(temporary) / "model_repository"
        config = scan_config(model, {}, collection.uri, gpu=False)
        config.parameters["recall_every"].string_value = str(options.every)
        write_model(repository, config, {"1/model.py": model_file("scan_model", "ScanModel")})
        server = Server(repository)
        try:
            server.start(300)
            answers, commits = [], [(0.0, options.documents)]
            until = time.monotonic() + options.seconds
            clients = [
                threading.Thread(target=ask, args=(server.grpc, queries, until, answers, options.k))
                for _ in range(options.clients)
            ]
            for one in clients:
                one.start()
            count = options.documents
            while time.monotonic() < until:
                time.sleep(1)
                write(count, count + options.upserts)
                count += options.upserts
                commits.append((time.monotonic(), count))
            for one in clients:
                one.join()
            time.sleep(2)  # the metrics are up to date within a second
            recall, checked = metrics(server)
        finally:
            server.stop()
        print(collection.explain())
    low, high, deviation = true_recalls(answers, queries, vectors, commits, options.k)
    averaged = min(checked, 1000)
    times = np.array([ended - begun for begun, ended, *_ in answers])
    print(
        f"{len(answers):,} answers, {count - options.documents:,} documents written in {len(commits) - 1} commits\n"
        f"care_recall {recall:.4f} of {averaged:,.0f} queries ({checked:,.0f} checked), asked for {options.recall:g}\n"
        f"true recall of all answers {low:.4f} to {high:.4f}; a mean of {averaged:,.0f} of them is mostly within "
        f"{2 * deviation / averaged**0.5:.4f}\n"
        f"milliseconds of an answer: p50 {1e3 * np.median(times):.2f}, p99 {1e3 * np.quantile(times, 0.99):.2f}"
    )


if __name__ == "__main__":
    main()
