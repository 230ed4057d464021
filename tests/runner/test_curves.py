from luthier.runner.curves import curves


def test_losses_share_a_picture_and_each_metric_has_its_own() -> None:
    rows = [
        {"step": 1, "train/loss": 2.0, "train/grad_norm": 1.0},
        {"step": 2, "train/loss": 1.0},
        {"step": 2, "validation/loss": 1.5, "validation/accuracy": 0.5},
    ]
    found = curves(rows)
    assert set(found) == {"loss", "accuracy"}
    assert found["loss"]["lines"] == [
        {"name": "training", "x": [1, 2], "y": [2.0, 1.0]},
        {"name": "validation", "x": [2], "y": [1.5]},
    ]
    assert found["accuracy"]["lines"] == [{"name": "validation", "x": [2], "y": [0.5]}]


def test_a_divergence_that_was_held_down_is_drawn() -> None:
    found = curves([{"step": 1, "train/loss": 2.0, "train/kl": 0.0}, {"step": 2, "train/loss": 1.0, "train/kl": 0.3}])
    assert found["kl"]["lines"] == [{"name": "training", "x": [1, 2], "y": [0.0, 0.3]}]


def test_a_step_that_logged_nothing_has_no_curves() -> None:
    assert curves([]) == {}
