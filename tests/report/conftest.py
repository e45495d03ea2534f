import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import samples


@pytest.fixture
def everything(tmp_path):
    """Return folders of results and benchmarks that have all there is: seven tasks, five models, two machines."""
    results, bench = tmp_path / "results", tmp_path / "bench"
    samples.write_summaries(results, *map(samples.summary, samples.MODELS))
    samples.write_machine(bench, samples.machine(), samples.run(samples.all_rows()))
    card = samples.machine("nvidia-h100-80gb-hbm3", gpu="NVIDIA H100 80GB HBM3", processor="Intel Xeon")
    parameters = {"vectors": 1_000_000, "width": 768, "queries": 1, "k": 10}
    rows = samples.compared(
        "cuda scan", "top 10 of 1,000,000 x 768", {"care_accel": 0.41, "torch matmul, topk": 1.9}, parameters
    )
    samples.write_machine(bench, card, samples.run(rows, threads=16, started="2026-11-24T10:00:00Z"))
    samples.write(bench / "ablation.json", [{"run": "full"}])
    return results, bench
