import numpy as np

from care_accel.index.approximate.building import choosing


def test_of_one_structure_the_smallest_setting_that_proves_the_recall_is_chosen_whatever_a_busy_machine_measured(
    build, monkeypatch
):
    smallest = build()
    monkeypatch.setattr(
        choosing, "_times", lambda searches, calls: [1.0, *np.arange(len(searches), 1, -1) * 1e-3]
    )
    busy = build()
    assert busy.choice.value == smallest.choice.value
    assert busy.choice.chosen_us >= smallest.choice.chosen_us
