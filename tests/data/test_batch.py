import torch

from lgrep.data.batch import Batch, Shipped


def test_every_tensor_moves_and_nothing_else_changes() -> None:
    rows = torch.zeros(2, 3, dtype=torch.long)
    batch = Batch(
        [torch.zeros(3, 3, 4, 4)] * 2, rows, rows, rows, [Shipped({"a": torch.ones(3)})] * 2, ["x"], [(1, 2, "r")], 4
    )
    moved = batch.to("meta")
    tensors = [*moved.views, moved.row, moved.group, moved.label, *(params.tensors["a"] for params in moved.params)]
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.caption, moved.replaced, moved.epoch) == (["x"], [(1, 2, "r")], 4)
    assert batch.row.device.type == "cpu"
    assert (batch.num_views, batch.num_anchors) == (2, 3)


def test_precision_plugins_leave_shipped_parameters_alone() -> None:
    from pytorch_lightning.plugins.precision import HalfPrecision

    rows = torch.zeros(1, 2, dtype=torch.long)
    sigma = torch.tensor([0.1234567, 1.7654321])
    batch = Batch([torch.zeros(2, 3, 4, 4, dtype=torch.uint8)], rows, rows, rows, [Shipped({"sigma": sigma})])
    converted = HalfPrecision("bf16-true").convert_input(batch)
    assert converted.params[0].tensors["sigma"].dtype == torch.float32
    assert converted.views[0].dtype == torch.uint8
