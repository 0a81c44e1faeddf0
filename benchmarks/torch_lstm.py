"""PyTorch's side of `train.py --part=pytorch`: trains nn.LSTM on one batch, in an environment that has PyTorch.

    python benchmarks/torch_lstm.py UNITS LAYERS WINDOWS NOTES float32|mixed_bfloat16

It prints its fastest setting. Then it reads a number of train_steps from each line of stdin, and prints the seconds
that they took. The model is that of the preset `tutorial`: pitch, step and duration go in, the next ones come out.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable

import torch

PITCHES = 128
TRIALS = 2  # more of each setting that is not slow


class Network(torch.nn.Module):
    """LSTM layers and a linear layer, with the losses of the preset `tutorial` for every position."""

    def __init__(self, units: int, layers: int, *, batch_first: bool) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, units, layers, batch_first=batch_first)
        self.heads = torch.nn.Linear(units, PITCHES + 2)

    def forward(self, notes: torch.Tensor, pitch: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Returns the loss."""
        outputs = self.heads(self.lstm(notes)[0]).float()
        pitch_loss = torch.nn.functional.cross_entropy(outputs[..., :PITCHES].flatten(0, 1), pitch.flatten())
        errors = (times - outputs[..., PITCHES:]).square() + 10 * torch.relu(-outputs[..., PITCHES:])
        return 0.05 * pitch_loss + errors.mean((0, 1)).sum()


def trainer(
    units: int, layers: int, windows: int, notes: int, *, lowers: str, batch_first: bool, one_dnn: bool
) -> Callable[[int], float]:
    """Returns a function that runs train_steps and returns the seconds; `lowers` is what computes in bfloat16."""
    torch.manual_seed(0)
    shape = (windows, notes) if batch_first else (notes, windows)
    network = Network(units, layers, batch_first=batch_first)
    inputs = torch.rand(*shape, 3)
    if lowers == "all":
        network, inputs = network.bfloat16(), inputs.bfloat16()
    pitch, times = torch.randint(PITCHES, shape), torch.rand(*shape, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005, fused=True)

    def run(train_steps: int) -> float:
        torch.backends.mkldnn.enabled = one_dnn
        started = time.perf_counter()
        for _ in range(train_steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=lowers == "layers"):
                loss = network(inputs, pitch, times)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return run


def main() -> None:
    """Finds the fastest setting and serves stdin."""
    units, layers, windows, notes = map(int, sys.argv[1:5])
    torch.set_flush_denormal(True)  # as TensorFlow does; the threads that come next inherit it
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings: dict[float, tuple[str, Callable[[int], float]]] = {}  # by seconds of a train_step
    lowered = ("layers", "all") if sys.argv[5] == "mixed_bfloat16" else ("none",)
    # Without oneDNN, bfloat16 is many times slower.
    libraries = (True,) if sys.argv[5] == "mixed_bfloat16" else (True, False)
    for lowers, batch_first, one_dnn in itertools.product(lowered, (True, False), libraries):
        name = f"{'batch' if batch_first else 'time'} first, {'oneDNN' if one_dnn else 'no oneDNN'}"
        name += {"layers": ", autocast", "all": ", all in bfloat16", "none": ""}[lowers]
        run = trainer(units, layers, windows, notes, lowers=lowers, batch_first=batch_first, one_dnn=one_dnn)
        try:
            run(1)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        seconds = run(1)
        if seconds < 1.5 * min(settings, default=seconds):
            seconds = min(seconds, *(run(1) for _ in range(TRIALS)))
        print(f"  {name}: {seconds:.3g} s a train_step", file=sys.stderr)
        settings[seconds] = name, run
    name, run = settings[min(settings)]
    print(f"PyTorch {torch.__version__}, {name}", flush=True)
    for line in sys.stdin:
        print(run(int(line)), flush=True)


if __name__ == "__main__":
    main()
