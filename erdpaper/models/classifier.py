"""A small convolutional classifier, whose last hidden layer is the space of the sample metrics."""

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Images (N, C, S, S) -> logits (N, classes); `features` are (N, 128), before the last layer.

    Three convolutions, two of them halving the image, then one hidden layer. Dropout acts in
    training only.
    """

    FEATURES = 128

    def __init__(self, size: int = 28, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        if size % 4:
            raise ValueError(f"the classifier halves an image twice; {size} is no multiple of 4")
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 5, stride=2, padding=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(64 * (size // 4) ** 2, self.FEATURES)
        self.drop = nn.Dropout(0.4)
        self.readout = nn.Linear(self.FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, 128), not negative."""
        h = self.convolutions(images)  # (N, 64 * S/4 * S/4)
        return torch.relu(self.hidden(self.drop(h)))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, classes)."""
        logits: Tensor = self.readout(self.drop(self.features(images)))
        return logits
