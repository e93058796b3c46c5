"""DiT against diffusers' DiTTransformer2DModel of equal width, depth and tokens.

Both have as many channels out as in and are timed in turn, so that they see the same machine, after
one turn that is not counted:

    training   loss, its gradients and a step of AdamW, in train mode
    gradients  the same without the optimizer: the peer repeats its embedders, with the table of
               labels, in every block, and so has more parameters to update
    sampling   one call of the model without gradients, and an Euler step with what it says

The ratio is the median over the turns of theirs / ours; above 1 ours is the faster. `--clock cpu`
counts processor time over all threads, which a crowded machine disturbs less than wall-clock time.
On a GPU both run in bfloat16 under autocast, and a last line is the training of DiT-XL/2 on
32x32x4 latents, compiled: images per second and the share of what the card reaches in one large
product of bfloat16 matrices (a step counts three times the multiply-adds of a forward pass).

    python benchmarks/image_models.py [--size DiT-S/2 ...] [--batch 8] [--repeats 7] [--threads 1]
                                      [--clock wall] [--device cpu]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from erdpaper.models.dit import CONFIGS, DiT, DiTConfig

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FULL, FULL_BATCH = "DiT-XL/2", 256


class Peer(nn.Module):
    """diffusers' model, called like ours."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.net = DiTTransformer2DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.width // config.heads,
            in_channels=config.channels,
            num_layers=config.depth,
            attention_bias=True,
            sample_size=config.size,
            patch_size=config.patch,
            num_embeds_ada_norm=config.classes,
            norm_eps=1e-6,
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.net(x, (1000 * t).long(), label).sample


class Work:
    """A model with a batch, and the steps that are timed."""

    def __init__(self, model: nn.Module, config: DiTConfig, batch: int, device: str) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
        shape = batch, config.channels, config.size, config.size
        self.x, self.y = (torch.randn(shape, device=self.device) for _ in range(2))
        self.t = torch.rand(batch, device=self.device)
        self.label = torch.randint(config.classes, (batch,), device=self.device)

    def predicted(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.model(self.x, self.t, self.label)

    def gradients(self) -> None:
        self.model.train()
        self.optimizer.zero_grad()
        nn.functional.mse_loss(self.predicted().float(), self.y).backward()

    def training(self) -> None:
        self.gradients()
        self.optimizer.step()

    @torch.no_grad()
    def sampling(self) -> None:
        self.model.eval()
        self.x.add_(self.predicted(), alpha=1e-3)


def seconds(call: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def compare(config: DiTConfig, options: argparse.Namespace) -> None:
    models = DiT(config), Peer(config)
    pair = [Work(model, config, options.batch, options.device) for model in models]
    counts = [sum(p.numel() for p in work.model.parameters()) / 1e6 for work in pair]
    print(f"  parameters: ours {counts[0]:.1f} M, diffusers {counts[1]:.1f} M")
    for step in ("training", "gradients", "sampling"):
        turns = [
            [seconds(getattr(work, step), CLOCKS[options.clock]) for work in pair]
            for _ in range(options.repeats + 1)
        ][1:]
        ours, theirs = (1e3 * statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(theirs / ours for ours, theirs in turns)
        print(f"  {step:9} ours {ours:9.1f} ms, diffusers {theirs:9.1f} ms, ratio {ratio:5.2f}")


def reachable(device: str, side: int = 8192, repeats: int = 20) -> float:
    """FLOPs per second of one large product of bfloat16 matrices, the best of the repeats."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken = [seconds(partial(torch.mm, a, b), time.perf_counter) for _ in range(repeats)]  # type: ignore[arg-type]
    return 2 * side**3 / min(taken)


def full_size(options: argparse.Namespace) -> None:
    """Training of the largest DiT, compiled, in bfloat16."""
    torch.set_float32_matmul_precision("high")
    config = CONFIGS[FULL]
    work = Work(DiT(config), config, FULL_BATCH, options.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work.model(work.x[:1], work.t[:1], work.label[:1])
    work.model = torch.compile(work.model)  # type: ignore[assignment]
    taken = [seconds(work.training, time.perf_counter) for _ in range(options.repeats + 3)][3:]
    rate = FULL_BATCH / statistics.median(taken)
    done = 3 * counter.get_total_flops() * rate
    share = done / reachable(options.device)
    memory = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{FULL}, batch {FULL_BATCH}, bfloat16, compiled: {rate:.0f} images/s in training, "
        f"{done / 1e12:.0f} TFLOP/s, {share:.0%} of one large product's, {memory:.0f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="time DiT against diffusers' model")
    parser.add_argument(
        "--size", nargs="+", default=["DiT-fashion", "DiT-S/2"], choices=list(CONFIGS)
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(
        f"batches of {options.batch}, {where}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}, {options.clock} time, medians of {options.repeats}"
    )
    for name in options.size:
        print(name)
        compare(DiT.from_name(name, learn_sigma=False).config, options)
    if options.device == "cuda":
        full_size(options)


if __name__ == "__main__":
    main()
