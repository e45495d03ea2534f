import json

import pytest
import torch

from bench.gpu import profile


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>", "attention"),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", "matrix products"),
        ("aten::mm", "matrix products"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("triton_red_fused_add_mean_mul_pow_rsqrt_0", "norms, activations, rotations, sums"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>", "norms, activations, rotations, sums"),
    ],
)
def test_a_kernel_has_the_kind_that_its_name_says(kernel, kind):
    assert profile.kind_of(kernel) == kind


@pytest.mark.parametrize(
    ("kinds", "share", "worth"),
    [
        ({"matrix products": 900.0, profile.FUSED: 100.0}, 0.1, False),
        ({"matrix products": 899.0, profile.FUSED: 101.0}, 0.101, True),
        ({"copies": 5.0, "attention": 5.0}, 0.0, False),
        ({}, 0.0, False),
    ],
)
def test_kernels_win_at_most_the_time_of_what_they_would_compute(kinds, share, worth):
    assert profile.fused_kernels(kinds) == {"win_at_most": share, "worth_writing": worth}


@pytest.mark.skipif(torch.cuda.is_available(), reason="is of a machine without a GPU")
def test_small_networks_are_profiled_without_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(profile, "RUNS", 1)
    out = tmp_path / "new" / "profile.json"
    assert profile.main(["--size", "smoke", "--out", str(out)]) == 0
    profiles = json.loads(out.read_text())["profiles"]
    assert len(profiles) == 6
    for found in profiles.values():
        assert found["us"] == pytest.approx(sum(found["kinds_us"].values()), rel=0.01)
        assert found["kinds_us"]["matrix products"] > 0
        assert found["kernels"] > 10
        share = profile.fused_kernels(found["kinds_us"])["win_at_most"]
        assert found["fused_kernels"]["win_at_most"] == pytest.approx(share, abs=0.002)
    printed = capsys.readouterr().out
    assert "qwen3, a pack of documents" in printed
    assert printed.count("worth writing") == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="is of a machine without a GPU")
def test_the_full_size_needs_a_gpu(capsys):
    assert profile.main([]) == 2
    assert "finds no GPU" in capsys.readouterr().err
