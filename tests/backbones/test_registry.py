from __future__ import annotations

import copy

import pytest
import torch

from lgrep.backbones import build_backbone
from lgrep.backbones.registry import GridPool
from lgrep.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "arguments", "dim"),
    [
        ("timm/test_resnet", {}, 96),
        ("timm/test_resnet", {"stem": "light", "channels": [16, 24, 32, 40]}, 40),
        ("timm/resnet18", {"stem": "conv3"}, 512),
        ("timm/test_resnet", {"stem": "light", "pool_grid": 2}, 384),
        ("torchvision/resnet18", {"image_size": 64, "pool_grid": 2}, 2048),
        ("torchvision/resnet18", {"stem": "light"}, 512),
        ("timm/test_vit", {"image_size": 48}, 64),
        ("timm/vit_tiny_patch16_224", {"image_size": 48, "patch_size": 8, "depth": 2}, 192),
        ("torchvision/squeezenet1_0", {"image_size": 64}, 512),
        ("torchvision/mobilenet_v3_small", {"image_size": 64}, 1024),
        ("torchvision/convnext_tiny", {"image_size": 64}, 768),
        ("torchvision/densenet121", {"image_size": 64}, 1024),
        ("timm/test_resnet", {"pool_grid": 2, "levels": [2, 3, 4]}, 4 * (48 + 192 + 96)),
        ("torchvision/resnet18", {"image_size": 64, "levels": [3, 4]}, 768),
        ("test_resnet", {}, 96),
    ],
)
def test_names_give_pooled_features_and_rebuild_themselves(name: str, arguments: dict[str, object], dim: int) -> None:
    encoder = build_backbone(name, **arguments)  # type: ignore[arg-type]
    pictures = torch.randn(2, 3, *[int(arguments.get("image_size", 48))] * 2)  # type: ignore[call-overload]
    assert encoder.dim == dim
    assert encoder.eval()(pictures).shape == (2, dim)
    again = build_backbone(encoder.name, **encoder.options)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(pictures), encoder(pictures))


def test_a_grid_keeps_places_and_averages_to_the_pooled_features() -> None:
    torch.manual_seed(0)
    pooled = build_backbone("timm/test_resnet", stem="light").eval()
    grid = build_backbone("timm/test_resnet", stem="light", pool_grid=2).eval()
    grid.load_state_dict(pooled.state_dict())
    pictures = torch.randn(3, 3, 64, 64)
    cells = grid(pictures).view(3, pooled.dim, 4)
    torch.testing.assert_close(cells.mean(dim=2), pooled(pictures))
    maps = pooled.forward_features(pictures)
    torch.testing.assert_close(cells[:, :, 1], maps[:, :, :1, 1:].mean(dim=(2, 3)))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5), (7, 4)])
@pytest.mark.parametrize("cells", [1, 2, 3])
def test_the_grid_is_adaptive_pooling(shape: tuple[int, int], cells: int) -> None:
    maps = torch.randn(2, 5, *shape)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, cells).flatten(1)
    torch.testing.assert_close(GridPool(cells)(maps), expected)


def test_levels_are_normalised_stages_side_by_side() -> None:
    torch.manual_seed(0)
    plain = build_backbone("timm/test_resnet").eval()
    leveled = build_backbone("timm/test_resnet", levels=[4, 1]).eval()
    leveled.load_state_dict(plain.state_dict())
    pictures = torch.randn(3, 3, 48, 48)
    features = copy.deepcopy(leveled)(pictures)
    torch.testing.assert_close(features[:, 32:], torch.nn.functional.normalize(plain(pictures)))
    stem = plain.maxpool(plain.act1(plain.bn1(plain.conv1(pictures))))
    first = torch.nn.functional.normalize(plain.layer1(stem).mean(dim=(2, 3)))
    torch.testing.assert_close(features[:, :32], first)


def test_the_same_seed_gives_the_same_weights() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_backbone("timm/test_resnet", stem="light").state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_building_leaves_batchnorm_statistics_alone() -> None:
    state = build_backbone("timm/test_resnet").state_dict()
    assert all(int(value) == 0 for key, value in state.items() if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm/resnet5", {}, "timm has no 'resnet5'; did you mean 'resnet50'"),
        ("tim/resnet50", {}, "unknown library 'tim'; did you mean 'timm'"),
        ("resnet5O", {}, "known to neither timm nor torchvision"),
        ("timm/test_resnet", {"stem": "ligth"}, "did you mean 'light'"),
        ("timm/test_vit", {"stem": "light", "image_size": 48}, "is for ResNets"),
        ("timm/test_vit", {"pool_grid": 2, "image_size": 48}, "is for ResNets"),
        ("timm/test_resnet", {"pool_grid": 0}, "at least 1"),
        ("timm/test_resnet", {"levels": [5]}, "stages among 1, 2, 3 and 4"),
        ("timm/test_vit", {"levels": [4], "image_size": 48}, "is for ResNets"),
        ("timm/test_resnet", {"chanels": [1]}, "does not take these options"),
    ],
)
def test_wrong_names_and_options_are_named(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(name, **arguments)  # type: ignore[arg-type]
