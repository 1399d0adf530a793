"""BNNeck (Luo et al. 2019): batch norm whose bias never moves, then a classifier without bias."""

from torch import nn


class BNNeck(nn.BatchNorm1d):
    """Batch norm (B, F) -> (B, F); weight 1 and trained, bias 0 and frozen (but loaded from files)."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.bias.requires_grad_(False)


def build_classifier(num_features: int, num_classes: int) -> nn.Linear:
    """Bias-free Linear(F, C), normal std 0.001."""
    classifier = nn.Linear(num_features, num_classes, bias=False)
    nn.init.normal_(classifier.weight, std=0.001)
    return classifier
