"""Networks whose features images are compared by, and whether these are ADM's.

Only the published weights of the Inception network of 2015-12-05 make a Fréchet distance an FID. A
file is known by its sha256; whatever is computed with another one is named after that file.
"""

import warnings
import zipfile
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from erdpaper.datasets import DatasetError
from erdpaper.files import write_atomically
from erdpaper.fullscale.evaluation.inception import SPATIAL, Features, Inception, resize

PROTOCOL = "ADM Inception"
_PORT = "pt_inception-2015-12-05-6726825d.pth"
_SCRIPT = "inception-2015-12-05.pt"
# sha256 of the published files
PUBLISHED = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": _PORT,
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": _SCRIPT,
}
FETCH = (
    f"fetch {_PORT} (96 MB) from "
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{_PORT}, or {_SCRIPT} "
    "from https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/, "
    "and name it with --inception"
)


class Network(Protocol):
    """Bytes (N, 3, H, W) -> features."""

    def __call__(self, images: Tensor) -> Features:
        """See `inception.Features`."""


class Extractor(NamedTuple):
    """A network on a device.

    protocol: PROTOCOL where its features are those of ADM's evaluations, else None; name: of its
    file; sha256: of its file.
    """

    network: Network
    protocol: str | None
    name: str
    sha256: str
    device: torch.device

    def __call__(self, images: Tensor) -> Features:
        """Features of images (n, H, W, C), bytes; one channel counts as three equal ones."""
        pixels = images.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        return self.network(pixels.to(self.device).contiguous())


def load(path: Path | None, device: torch.device) -> Extractor:
    """The extractor of a file, for evaluation.

    A TorchScript module called as StyleGAN's `inception-2015-12-05.pt`, or the weights of
    `Inception` under the names of pytorch-fid's port: its own .pth, or safetensors. Raises
    ValueError where there is none, saying where to get it, and for anything else.
    """
    if path is None:
        raise ValueError(f"there are no Inception weights to compare images with: {FETCH}")
    if not path.is_file():
        raise ValueError(f"{path} is missing: {FETCH}")
    digest = sha256(path)
    if _is_script(path):
        network: Network = Scripted(_script(path, device))
        origin: str | None = digest
    else:
        state, origin = _state(path, digest)
        network = filled(state, path).to(device)
    protocol = PROTOCOL if origin in PUBLISHED else None
    return Extractor(network, protocol, path.name, digest, device)


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal, DatasetError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from None


def keep(source: Path, target: Path) -> None:
    """Write the weights of the port as safetensors, which remember the file they came from."""
    digest = sha256(source)
    state, _ = _state(source, digest)
    filled(state, source)
    write_atomically(target, save(state, {"sha256 of the source": digest}))


def stand_in(path: Path, seed: int = 0, divisor: int = 16) -> None:
    """Write weights, drawn by a seed, of a narrow network of Inception's form.

    It is asked as the published one is, at less than a hundredth of the cost, and takes its place
    in tests and rehearsals; what it finds is no FID.
    """
    network, generator = Inception(divisor), torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.1, generator=generator)
            nn.init.zeros_(part.bias)
    write_atomically(path, save(network.state_dict()))


def filled(state: dict[str, Tensor], path: Path) -> Inception:
    """The network that a state dict of the port's names is of; its width is that of the weights.

    Raises ValueError for other names or shapes.
    """
    first, last = state.get("Conv2d_1a_3x3.conv.weight"), state.get("fc.weight")
    if first is None or last is None or len(first) not in (2, 4, 8, 16, 32):
        raise ValueError(f"{path} holds no Inception weights: {FETCH}")
    network = Inception(32 // len(first), len(last))
    # a counter of training steps, which some files leave out
    expected = {n: p.shape for n, p in network.state_dict().items() if "num_batches" not in n}
    found = {n: p.shape for n, p in state.items() if "num_batches" not in n}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{path} holds no Inception weights, {name} differs: {FETCH}")
    network.load_state_dict({name: state[name] for name in expected}, strict=False)
    return network


def _state(path: Path, digest: str) -> tuple[dict[str, Tensor], str | None]:
    """Tensors of a file, and the sha256 of the file they were published in, as far as is known."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                facts: dict[str, str] = file.metadata() or {}
            return load_file(path), facts.get("sha256 of the source")
        # tensors only: nothing that the file says can run
        state = torch.load(path, map_location="cpu", weights_only=True)
    # what is no such file at all breaks torch's reader in any way
    except Exception as error:
        raise _unreadable(path, error) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is no state dict of tensors: {FETCH}")
    return state, digest


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/")[1:2] == ["code"] for name in archive.namelist())


def _script(path: Path, device: torch.device) -> Any:
    with warnings.catch_warnings():
        # the published file has this format, whatever torch thinks of it today
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module: Any = torch.jit.load(path, map_location=device)
        except RuntimeError as error:
            raise _unreadable(path, error) from None
    return module.eval()


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{path} holds no weights that can be read ({reason}): {FETCH}")


class Scripted:
    """A TorchScript module in the role of `Inception`.

    Called with return_features=True it gives `pool`, with no_output_bias=True probabilities. Its
    `layers`, gone through up to the first convolution of `mixed_6`, give `spatial`; a module
    without them gives none.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.before: list[nn.Module] | None = None
        layers = dict(getattr(module, "layers", nn.Module()).named_children())
        if "mixed_6" in layers:
            self.before = list(layers.values())[: list(layers).index("mixed_6")]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features of bytes (N, 3, H, W)."""
        pool: Tensor = self.module(images, return_features=True)
        probabilities: Tensor = self.module(images, no_output_bias=True)
        return Features(pool, self._spatial(images), probabilities)

    def _spatial(self, images: Tensor) -> Tensor | None:
        if self.before is None:
            return None
        x = (resize(images.float()) - 128) / 128
        for layer in self.before:
            x = layer(x)
        x = self.module.layers.mixed_6.conv(x)  # (N, 192, 17, 17)
        spatial: Tensor = x[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
        return spatial
