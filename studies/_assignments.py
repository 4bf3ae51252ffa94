"""Shared by the published assignments: the form of published metrics, and deviations that several have in common."""


def last_five(accuracy: float, loss: float, train_accuracy: float) -> dict[str, float]:
    """Return published metrics: mean test accuracy and loss over the last five epochs, and the last train accuracy.

    Accuracies are passed in percent and returned as fractions.
    """
    return dict(test_accuracy=accuracy / 100, test_loss=loss, running_train_accuracy=train_accuracy / 100)


def accuracies(train: float, test: float) -> dict[str, float]:
    """Return published accuracies as fractions; the arguments are in percent."""
    return dict(train_accuracy=train / 100, test_accuracy=test / 100)


VALIDATION = "Of the 60,000 train images 10,000 are the validation set, and 50,000 train the network."
FULL_VALIDATION = "Of the 50,000 train images 10,000 are the validation set, and 40,000 train the network."
LAST_FIVE = "The published test accuracies and losses are means over the last five epochs; ours are the last epoch's."
JITTER = "Saturation and hue jitter, which do nothing to gray images, are left out."
