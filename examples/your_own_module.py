"""Any module will do: attention, LayerNorm, tied weights, dropout and BatchNorm in one, connected without touching it."""

import torch
from torch import Tensor, nn

from isthmus import Plan, Recalibrate, bezier, fit, load_data


class Reader(nn.Module):
    """Reads an 8x8 digit row by row."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 3, dropout=0.1, batch_first=True)
        self.batch_norm = nn.BatchNorm1d(width)
        self.back = nn.Linear(width, width)
        self.back.weight = nn.Parameter(torch.eye(width))
        self.again = nn.Linear(width, width)
        self.again.weight = self.back.weight  # tied: one parameter with two names
        self.head = nn.Linear(width, 10)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        rows = self.norm(self.embed(x.squeeze(1)))
        mixed, _ = self.attention(rows, rows, rows, need_weights=False)
        return self.head(self.again(self.back(self.batch_norm((rows + mixed).mean(1))).relu()))


data = load_data("digits")
models = []
for seed in range(2):
    torch.manual_seed(seed)
    models.append(Reader().eval())
before = {name: value.clone() for name, value in models[0].state_dict().items()}

fitted = fit(bezier(models), data.train, Plan(steps=200, batch_size=64, learning_rate=0.2), seed=0)
losses = [row["loss"] for row in fitted.history.rows()]
middle = fitted.bridge.at(0.5, settle=Recalibrate(data.train)).eval()
with torch.no_grad():
    accuracy = (middle(data.test.inputs()).argmax(1) == data.test.y).float().mean().item()
print(f"loss along the curve {losses[0]:.2f} -> {losses[-1]:.2f}")
print(f"the middle, between two untrained ends: {100 * accuracy:.1f} % of the test images right")

assert accuracy > 0.5  # far above the 10 % of its two untrained ends
for t, model in ((0.0, models[0]), (1.0, models[1])):
    end = fitted.bridge.at(t).state_dict()
    assert all(torch.equal(end[name], value) for name, value in model.state_dict().items())  # bitwise, buffers included
assert all(
    torch.equal(before[name], value) for name, value in models[0].state_dict().items()
)  # the caller's is untouched
