"""Made-up results in the shape of real ones: summaries of models, and runs of every suite on a machine."""

import json
import random

TASKS = {
    "retrieval/cmedir": ("ndcg_at_10", "Retrieval", 3000),
    "retrieval/epilepsy-qa": ("ndcg_at_10", "Retrieval", 400),
    "retrieval/huatuo-qa": ("ndcg_at_10", "Retrieval", 1000),
    "reranking/epilepsy-qa": ("map_at_1000", "Reranking", 400),
    "reranking/kuake-qtr": ("map_at_1000", "Reranking", 250),
    "sts/chip-sts": ("spearman", "STS", 4000),
    "sts/covid-pairs": ("spearman", "STS", 2000),
}
MODELS = ("care-mini", "care-mini-hybrid", "care-mini-document-twin", "bm25", "care-mini-untrained")


def summary(model, tasks=TASKS, *, split="dev", seed=0, **manifest):
    """Return what the evaluation writes of a model; models of words give pairs no score."""
    random_ = random.Random(f"{model} {seed}")
    names = [name for name in tasks if not (name.startswith("sts") and model.endswith(("bm25", "hybrid")))]
    entries = {}
    for name in names:
        metric, kind, size = tasks[name]
        score = round(random_.uniform(0.2, 0.8), 5)
        half = 0.9 / size**0.5
        entries[name] = {
            "main_metric": metric,
            "main_score": score,
            "interval": [round(score - half, 5), round(score + half, 5)],
            "split": split,
            "type": kind,
            "size": size,
        }
    skipped = [{"task": n, "reason": f"{model} does not support STS"} for n in tasks if n not in entries]
    return {
        "model": model,
        "tasks": entries,
        "average": sum(e["main_score"] for e in entries.values()) / len(entries) if entries else None,
        "skipped": skipped,
        "manifest": {
            "device": "cpu",
            "limit": None,
            "machine": "Linux x86_64, 2 logical cores",
            "query": {"revision": "a" * 64},
            "document": {"revision": "b" * 64},
            "data": {name: f"hash of {name}" for name in entries},
            "versions": {"care-accel": "0.1.0", "mteb": "2.26.24"},
            "kept": {},
        }
        | manifest,
    }


def row(suite, group, name, p50_ms, **others):
    """Return a row as the benchmarks write it."""
    values = {
        "suite": suite,
        "group": group,
        "name": name,
        "ours": False,
        "exact": True,
        "parameters": {},
        "rounds": 120,
        "p50_ms": p50_ms,
        "p95_ms": round(1.2 * p50_ms, 5),
        "p99_ms": round(1.5 * p50_ms, 5),
        "ratio": None,
        "ratios": [],
        "noisy": False,
        "limit": None,
        "in_cache": False,
        "note": "",
    }
    assert set(others) <= {
        *values,
        "parts_us",
        "quality",
        "recall",
        "bytes",
        "model_bytes",
        "rate",
        "concurrency",
    }
    return values | others


def compared(suite, group, times, parameters=None, **each):
    """Return the rows of a group, the first of which is ours; ``each`` has further fields by row name."""
    ours = next(iter(times.values()))
    rows = []
    for position, (name, p50) in enumerate(times.items()):
        ratio = round(p50 / ours, 5)
        extra = {"ratio": ratio, "ratios": [round(0.97 * ratio, 5), ratio, round(1.04 * ratio, 5)]}
        extra |= {"parameters": dict(parameters or {}), "ours": position == 0}
        rows.append(row(suite, group, name, p50, **extra | each.get(name, {})))
    return rows


def scan_rows():
    rows = []
    for n in (10_000, 200_000):
        for queries, times in {1: (4.1, 41, 50, 25), 32: (40, 400, 244, 98)}.items():
            times = [t * n / 200_000 for t in times]
            names = (
                "care_accel",
                "faiss IndexFlatIP as shipped",
                "torch float32 matmul, topk",
                "NumPy product, argpartition",
            )
            parameters = {
                "kind": "gaussian",
                "vectors": n,
                "width": 768,
                "queries": queries,
                "k": 10,
                "threads": 2,
            }
            group = f"top 10 of {n:,} x 768, gaussian, {queries} at a time"
            some = compared("scan", group, dict(zip(names, times, strict=True)), parameters)
            some[0]["limit"] = {"name": "read bandwidth", "share": 0.83}
            for one in some:
                one["in_cache"] = n == 10_000
            some[2] |= {"noisy": queries == 32, "note": "BLAS: MKL"}
            rows += some
    return rows


def approximate_rows():
    rows = []
    for n, scale in ((10_000, 3.0), (100_000, 1.4), (1_000_000, 0.4)):
        ours = 0.02 * n / 1000
        parameters = {"vectors": n, "width": 768, "queries": 1, "k": 10, "threads": 2}
        names = {
            "care_accel": ours,
            "faiss HNSW, recall 0.99": scale * ours,
            "faiss IVF, recall 0.999": 2.2 * scale * ours,
        }
        extra = {
            "faiss HNSW, recall 0.99": {"exact": False, "recall": 0.9912},
            "faiss IVF, recall 0.999": {"exact": False, "recall": 0.9991},
            "care_accel": {"recall": 1.0, "bytes": 5 * 768 * n},
        }
        rows += compared("approximate", f"top 10 of {n:,} x 768", names, parameters, **extra)
    return rows


def scaling_rows():
    rows = []
    for over, values in {
        "vectors": (10_000, 30_000, 100_000, 300_000, 1_000_000),
        "k": (1, 10, 100, 1000),
        "threads": (1, 2),
    }.items():
        for value in values:
            case = {"vectors": 200_000, "width": 768, "k": 10, "queries": 1, "threads": 2} | {over: value}
            group = f"by {over}: " + ", ".join(f"{k} {v:,}" for k, v in case.items() if k != over)
            n = case["vectors"]
            # 10,000 vectors fit in a cache.
            time = (0.05 + n * 2e-5 * (0.5 if n == 10_000 else 1) + 1e-3 * case["k"]) * 2 / case["threads"]
            rows.append(
                row(
                    *("scaling", group, f"{over} {value:,}", round(time, 5)),
                    ours=value in (200_000, 10, 2),
                    parameters={"over": over, **case},
                    limit={"name": "read bandwidth", "share": 0.7},
                    in_cache=n == 10_000,
                    bytes=5 * n * 768 + 16 * n,
                )
            )
    return rows


def tradeoff_rows():
    rows, width_loss = [], {64: 0.06, 128: 0.02, 256: 0.0}
    for task, best in (("retrieval/cmedir", 0.709), ("retrieval/huatuo-qa", 0.306)):
        times, extra = {}, {}

        def add(name, p50, score, *, task=task, times=times, extra=extra, **more):
            times[name] = p50
            extra[name] = {
                "quality": {"metric": "nDCG@10", "task": task, "score": score, "queries": 3000},
                **more,
            }

        for precision, saved in (("float32", 1.0), ("int8", 0.55)):
            for width, loss in width_loss.items():
                parameters = {"family": "asymmetric", "width": width, "precision": precision}
                memory = {"model_bytes": int(14e6 * saved), "bytes": 29_037 * 5 * width}
                p50 = round(0.12 + saved * 0.16 + width / 4000, 4)
                add(
                    f"care-mini {width} {precision}",
                    p50,
                    round(best - loss - 0.0004 / saved, 5),
                    parameters=parameters,
                    **memory,
                )
        parameters = {"family": "symmetric", "width": 256, "precision": "float32"}
        add(
            "symmetric twin",
            0.82,
            best + 0.006,
            parameters=parameters,
            model_bytes=int(30e6),
            bytes=29_037 * 5 * 256,
        )
        add("BM25", 0.9, best + 0.049, bytes=9_000_000)
        add("care-mini with BM25", 1.3, best + 0.066, bytes=46_000_000, noisy=True)
        ordered = {
            name: times[name]
            for name in ("care-mini 256 float32", *(n for n in times if n != "care-mini 256 float32"))
        }
        rows += compared("tradeoff", f"{task}, one query at a time", ordered, **extra)
    return rows


def encoder_rows():
    times = {"query encoder": 13.0, "document encoder": 410.0}
    extra = {
        "query encoder": {"parameters": {"family": "asymmetric", "tokens": 16}, "model_bytes": 1.2e9},
        "document encoder": {"parameters": {"family": "symmetric", "tokens": 16}, "model_bytes": 16e9},
    }
    return compared("encoder", "CARE at true size, one query of 16 tokens", times, **extra)


def retriever_rows():
    times = {"care_accel": 0.29, "sentence-transformers, faiss": 4.1}
    extra = {
        "care_accel": {"parts_us": {"tokenize": [40, 70], "encode": [150, 210], "scan": [90, 130]}},
        "sentence-transformers, faiss": {"parts_us": {"encode": [3300, 4600], "scan": [800, 1400]}},
    }
    return compared("retriever", "text to top 10 of 29,037 titles, one query", times, {"queries": 1}, **extra)


def run(rows, *, started="2026-11-25T23:15:00Z", **others):
    """Return a run with some rows."""
    return {
        "id": started.replace("-", "").replace(":", ""),
        "started": started,
        "size": "default",
        "revision": "0080916",
        "changed": False,
        "threads": 2,
        "data": "folder",
        "versions": {"care-accel": "0.1.0", "python": "3.11.2", "faiss-cpu": "1.15.1"},
        "limits": {
            "read bandwidth": {"unit": "bytes/s", "median": 2.9e10, "low": 2.2e10, "high": 3.4e10},
            "int8 rate": {"unit": "products/s", "median": 9.1e11, "low": 8.8e11, "high": 9.2e11},
        },
        "rows": rows,
    } | others


def machine(name="amd-epyc-2-cores", *, gpu=None, processor="AMD EPYC"):
    """Return a machine's facts."""
    return {
        "name": name,
        "processor": processor,
        "cores": 2,
        "memory_gib": 24.0,
        "instruction_sets": ["avx512vnni", "avxvnni", "avx2"],
        "flags": ["avx2", "avx512f", "avx512_vnni"],
        "caches_bytes": {"L1d": 49152, "L2": 1048576, "L3": 33554432},
        "gpu": gpu,
        "system": "Linux x86_64",
    }


def all_rows():
    return [
        *scan_rows(),
        *approximate_rows(),
        *scaling_rows(),
        *tradeoff_rows(),
        *encoder_rows(),
        *retriever_rows(),
    ]


def write(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return file


def write_machine(folder, facts, *runs):
    """Write a machine's file below a folder as ``bench/results``."""
    return write(folder / f"{facts['name']}.json", {"schema": 1, "machine": facts, "runs": list(runs)})


def write_summaries(folder, *summaries):
    """Write models' summaries below a folder as ``results``."""
    for one in summaries:
        write(folder / one["model"].replace("/", "_") / "summary.json", one)


def write_everything(results, bench):
    """Write seven tasks, five models and two machines."""
    write_summaries(results, *map(summary, MODELS))
    write_machine(bench, machine(), run(all_rows()))
    card = machine("nvidia-h100-80gb-hbm3", gpu="NVIDIA H100 80GB HBM3", processor="Intel Xeon")
    parameters = {"vectors": 1_000_000, "width": 768, "queries": 1, "k": 10}
    times = {"care_accel": 0.41, "torch matmul, topk": 1.9}
    rows = compared("cuda scan", "on the card, top 10 of 1,000,000 x 768", times, parameters)
    write_machine(bench, card, run(rows, threads=16, started="2026-11-24T10:00:00Z"))
