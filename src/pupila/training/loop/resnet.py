"""ResNet-18 exactly as torchvision defines and names it, so that its published state dict loads unchanged.

He et al., "Deep Residual Learning for Image Recognition", 2016.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)
FEATURES = WIDTHS[-1]
"""Of the last stage."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in 0 to 1, as torchvision's weights expect them normalised."""

LEAST_MEAN = 1e-3
"""Added to means of the order of 1 where they are divided by their square roots, whose slope at zero has no end."""


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(y)) + shortcut, inplace=True)


class ResNet18(nn.Module):
    """Normalised float pictures [N, 3, S, S] -> logits [N, K]. pooling: `mean` or `root`, see Recipe."""

    within: Tensor | None = None
    """[768, 768]: how the backbone's features under the root vary within the classes of many pictures, where known."""

    def __init__(self, classes: int, pooling: str = "mean") -> None:
        super().__init__()
        self.pooling = pooling
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = self._stage(WIDTHS[0], WIDTHS[0], 1)
        self.layer2 = self._stage(WIDTHS[0], WIDTHS[1], 2)
        self.layer3 = self._stage(WIDTHS[1], WIDTHS[2], 2)
        self.layer4 = self._stage(WIDTHS[2], WIDTHS[3], 2)
        self.fc = nn.Linear(width_of(pooling), classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def pool(self, pooling: str) -> None:
        """Take these features from now on, and a new last layer where they are others."""
        if pooling != self.pooling:
            self.pooling, self.fc = pooling, nn.Linear(width_of(pooling), self.fc.out_features)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))

    def features(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, D]: averages of the last feature map, or square roots of those of the last two."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        earlier = self.layer3(self.layer2(self.layer1(x)))
        last = self.layer4(earlier).mean((2, 3))
        return roots(torch.cat([last, earlier.mean((2, 3))], 1)) if self.pooling == "root" else last

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, K]."""
        logits: Tensor = self.fc(self.features(x))
        return logits


def width_of(pooling: str) -> int:
    """Return how many features the last layer sees: under the root those of the stage before, too, behind its own."""
    return sum(WIDTHS[-2:]) if pooling == "root" else WIDTHS[-1]


def roots(means: Tensor) -> Tensor:
    """Return the square roots of features [N, D], nearly: strong features vary most, and so weigh less."""
    return means / (means + LEAST_MEAN).sqrt()


def enlarged(pictures: Tensor, size: int) -> Tensor:
    """uint8 [N, H, W, 3] -> normalised float32 [N, 3, size, size], channels last: what the exported graph does too."""
    x = normalised(pictures)
    if x.shape[-1] != size:
        x = functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def normalised(pictures: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], (x / 255 - mean) / std."""
    mean = torch.tensor(MEAN, device=pictures.device) * 255
    std = torch.tensor(STD, device=pictures.device) * 255
    return ((pictures - mean) / std).permute(0, 3, 1, 2)
