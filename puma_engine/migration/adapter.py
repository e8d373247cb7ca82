"""The adapter: maps soft prompts of one backbone (or several) to another's embedding space."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puma_engine.config import AdapterConfig
from puma_engine.errors import MigrationError

# Buffers of an adapter, which are not trained, and their names in stored adapters.
STORED_BUFFERS = {"input_scale": "gain", "input_bias": "shift", "max_norm": "longest"}
# Vectors that are mapped at once. On a CPU the results between two layers then fit into its cache, which
# is 1.2 to 1.4 times as fast as 4,096 at once (2048 to 3072, hidden 256).
CPU_BATCH, GPU_BATCH = 512, 8192
# Factor of the last weights where an adapter starts near one vector.
NEAR_START = 0.3


class FeedForward(nn.Module):
    """LayerNorm, Linear(d_in, hidden), SiLU, Dropout, Linear(hidden, d_out)."""

    def __init__(self, d_in: int, d_out: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(d_in),
            nn.Linear(d_in, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, d_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Adapter(nn.Module):
    """The paper's network: x + f1(x), then f2 to the target's width, then x + f3(x), f4.

    Block 2 changes the width and has no residual connection, nor has the last block; all others
    have one. With depth 4 and hidden 4096, an adapter from 2048 to 3072 has 88,128,512 parameters,
    as in the paper.

    Where set, input_scale and input_bias [l, d_in] multiply and shift prompts before the first
    block, and max_norm [] scales each mapped token x by max_norm / sqrt(|x|^2 + max_norm^2).
    """

    input_scale: Tensor | None
    input_bias: Tensor | None
    max_norm: Tensor | None

    def __init__(
        self,
        d_in: int,
        d_out: int,
        config: AdapterConfig | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the network; with a generator, draw all weights from it."""
        super().__init__()
        config = config or AdapterConfig()
        self.d_in, self.d_out, self.config = d_in, d_out, config
        widths = [(d_in, d_in), (d_in, d_out)] + [(d_out, d_out)] * (config.depth - 2)
        self.blocks = nn.ModuleList(
            FeedForward(a, b, config.hidden, config.dropout) for a, b in widths
        )
        for name in STORED_BUFFERS:
            self.register_buffer(name, None)
        if generator is None:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)

    @torch.no_grad()
    def start_at(self, vector: Tensor) -> None:
        """Map every prompt near a vector [d_out]: it becomes the last bias, and the last weights are shrunk."""
        block = self.blocks[-1]
        assert isinstance(block, FeedForward)
        last = block.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(NEAR_START)
        last.bias.copy_(vector)

    def forward(self, prompts: Tensor) -> Tensor:
        """Map prompts [..., l, d_in] to [..., l, d_out]."""
        x = prompts
        if self.input_scale is not None and self.input_bias is not None:
            x = x * self.input_scale + self.input_bias
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x) if number in (1, last) else x + block(x)
        if self.max_norm is not None:
            # In half precision the squares would overflow.
            squares = torch.sum(x.float() ** 2, dim=-1, keepdim=True)
            x = x * (self.max_norm / torch.sqrt(squares + self.max_norm**2))
        return x


def input_scaling(
    vectors: np.ndarray,
    widths: Sequence[int],
    max_mean_to_std: float,
    standardised: Sequence[bool] | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the input scale and bias [l, d_in] that bound the mean-to-std ratio of the prompts.

    max_mean_to_std: for each source, the root mean square of the prompts' mean over users is
    reduced to at most so many times that of their standard deviation; the root mean square of all
    prompts stays the same. 0: no bound. Fitted prompts may have a mean twenty times as large as
    their standard deviation, and the adapter's LayerNorm would then remove nearly all differences
    between users.

    vectors [n, l, d_in]: prompts of one source or, side by side, of several of these widths.
    standardised: for each source, whether each of its dimensions gets mean 0 and standard deviation
    1 instead, as vectors need whose dimensions may have different units (None: no source). Returns
    None where nothing is to be scaled.
    """
    mean, std = vectors.mean(axis=0), vectors.std(axis=0)
    scale, bias = np.ones_like(mean), np.zeros_like(mean)
    boundaries = np.cumsum(widths)
    standardised = standardised or [False] * len(widths)
    for start, end, standardise in zip(
        [0, *boundaries[:-1]], boundaries, standardised, strict=True
    ):
        part = (slice(None), slice(start, end))
        if standardise:
            scale[part] = 1 / np.where(std[part] > 0, std[part], 1)
            bias[part] = -mean[part] * scale[part]
            continue
        mean_size, std_size = _rms(mean[part]), _rms(std[part])
        if max_mean_to_std and mean_size > max_mean_to_std * std_size > 0:
            size = float(np.hypot(mean_size, std_size) / np.hypot(max_mean_to_std, 1))
            scale[part] = size / std_size
            bias[part] = mean[part] * (max_mean_to_std * size / mean_size - size / std_size)
    return (scale, bias) if np.any(scale != 1) or np.any(bias) else None


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


@torch.no_grad()
def apply_adapter(
    network: Adapter, vectors: np.ndarray, batch_size: int | None = None
) -> np.ndarray:
    """Map prompts [n, l, d_in] to [n, l, d_out] float32, in eval mode and in batches of users.

    batch_size: users (default: as many as have CPU_BATCH or GPU_BATCH vectors). Raises
    MigrationError where a finite prompt overflows.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    if batch_size is None:
        limit = CPU_BATCH if device.type == "cpu" else GPU_BATCH
        batch_size = max(1, limit // max(1, vectors.shape[1]))
    result = np.empty((*vectors.shape[:2], network.d_out), np.float32)
    for start in range(0, len(vectors), batch_size):
        batch = torch.from_numpy(vectors[start : start + batch_size])
        result[start : start + batch_size] = network(batch.to(device)).float().cpu().numpy()
    network.train(was_training)
    broken = np.flatnonzero(~np.isfinite(result).all(axis=(1, 2)))
    if len(broken):
        raise MigrationError(
            f"{len(broken):,} of {len(result):,} prompts become NaN or infinite when they are mapped "
            f"(first: row {broken[0]}, whose largest number is "
            f"{np.abs(vectors[broken[0]]).max():.3g}); check those prompts."
        )
    return result


def adapter_tensors(network: Adapter) -> dict[str, np.ndarray]:
    """Return an adapter's weights and buffers by their stored names, as float32 arrays."""
    return {
        STORED_BUFFERS.get(name, name): tensor.detach().float().cpu().numpy()
        for name, tensor in network.state_dict().items()
    }


def load_adapter(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Adapter:
    """Rebuild an adapter, in eval mode, from its stored tensors and shape.

    tensors: as `adapter_tensors` returns them; meta: d_in, d_out, hidden, depth and dropout.
    Raises KeyError where meta lacks one of these, ConfigError where one is not such a number, and
    RuntimeError where the tensors do not fit them.
    """
    config = AdapterConfig(hidden=meta["hidden"], depth=meta["depth"], dropout=meta["dropout"])
    names = {stored: name for name, stored in STORED_BUFFERS.items()}
    state = {
        names.get(name, name): torch.from_numpy(np.array(value, dtype=np.float32))
        for name, value in tensors.items()
    }
    widths, numbers = [meta["d_in"], meta["d_out"]], sum(value.numel() for value in state.values())
    for size in (*widths, config.hidden, config.depth):
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= numbers:
            raise RuntimeError(f"a size is {size!r:.40}, and its tensors hold {numbers:,} numbers")
    # On the meta device, so that a damaged shape is found before memory is allocated for it.
    with torch.device("meta"):
        network = Adapter(meta["d_in"], meta["d_out"], config)
    for name in STORED_BUFFERS:
        # load_state_dict does not fill a buffer that is None.
        setattr(network, name, state.get(name))
    network.load_state_dict(state, assign=True)
    return network.eval()
