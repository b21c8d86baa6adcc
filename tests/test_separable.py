"""Images that are judged by teachers who did not make them."""

import numpy as np

from benchmarks import separable


def test_judges_see_no_image_of_their_own(tmp_path):
    (tmp_path / "recovered").mkdir()
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (1, 2, 2, 3), np.uint8
    )
    np.savez(
        tmp_path / "recovered" / "a.npz",
        images=images,
        classes=np.asarray([0, 2, 2, 0, 2, 1]),
        owners=np.asarray([0, 0, 1, 1, 2, 2]),
    )
    bank = separable.bank_of_others(tmp_path, judges=1)
    assert bank.counts.tolist() == [1, 1, 2]
    assert np.asarray(bank.images)[:, :, 0, 0, 0].tolist() == [[3, 0], [5, 0], [2, 4]]
