"""Which arm of three spirals a point lies on: a small PyTorch network behind a plain class."""

import numpy as np
import torch


def network():
    """The network without its weights; training and serving build the same."""
    return torch.nn.Sequential(
        torch.nn.Linear(2, 32),
        torch.nn.Tanh(),
        torch.nn.Linear(32, 32),
        torch.nn.Tanh(),
        torch.nn.Linear(32, 3),
    )


class Spirals:
    """The arm and its probabilities; the first axis of every array is the batch."""

    def load(self, folder):
        """Read the weights, as data alone: nothing that is stored in them is executed."""
        self.network = network()
        self.network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        self.network.eval()

    @torch.inference_mode()
    def predict(self, points):
        """The number of the arm, and the probability of each, for points (batch, 2)."""
        rows = torch.from_numpy(np.asarray(points, dtype=np.float32))
        probabilities = torch.softmax(self.network(rows), dim=1)
        return {"arm": probabilities.argmax(dim=1).numpy(), "probabilities": probabilities.numpy()}
