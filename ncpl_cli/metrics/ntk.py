"""The empirical neural tangent kernel of the logits: how differently samples pull at the parameters (L24).

Full kernel Theta (N, C, N, C): Theta[i, c, j, c'] = <d f_c(x_i) / d theta, d f_c'(x_j) / d theta>.
Trace kernel K (N, N): K[i, j] = sum over c of Theta[i, c, j, c]. The two have very different spectra: their metrics
have names of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F

from ncpl_cli.metrics.inputs import Batch
from ncpl_cli.metrics.units import entropy_rank
from ncpl_cli.networks import ACTIVATIONS, MLP
from ncpl_cli.objectives import CROSS_ENTROPY, Objective

SAMPLES = 128
"""Samples that the kernel is measured on."""

BUDGET = 1 << 30
"""Bytes of Jacobians kept at once; more of them take further passes."""


@dataclass(frozen=True)
class Cost:
    """What a kernel will take: `closed` for an MLP's closed form, else passes of Jacobians of `bytes` at most each."""

    samples: int
    classes: int
    parameters: int
    closed: bool
    bytes: int
    passes: int

    def __str__(self) -> str:
        size = f"{self.bytes / 2**20:.0f} MiB"
        if self.closed:
            return f"NTK of {self.samples} samples: closed form, {size}"
        return (
            f"NTK of {self.samples} samples x {self.classes} logits x {self.parameters} parameters: "
            f"{self.passes} passes of Jacobians, {size} at once"
        )


def cost(network: nn.Module, samples: int, classes: int, budget: int = BUDGET) -> Cost:
    """What `full_kernel` will take, before it starts."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    count, size = sum(p.numel() for p in parameters), parameters[0].element_size()
    kernel = 8 * (samples * classes) ** 2
    if has_closed_form(network):
        return Cost(samples, classes, count, True, 3 * kernel, 1)
    columns = _columns(samples * classes, size, budget)
    passes = sum(1 for _ in _groups(network, columns))
    return Cost(samples, classes, count, False, size * samples * classes * min(columns, count) + 2 * kernel, passes)


def has_closed_form(network: nn.Module) -> bool:
    """Whether every parameter is of a known layer that sees samples one by one: an MLP without batch norms."""
    return isinstance(network, MLP) and network.norm in ("none", "layer")


def full_kernel(network: nn.Module, images: Tensor, budget: int = BUDGET) -> Tensor:
    """Theta (N, C, N, C) in float64, in the mode that the network is in."""
    if isinstance(network, MLP) and has_closed_form(network):
        return mlp_kernel(network, images)
    return jacobian_kernel(network, images, budget)


def mlp_kernel(network: MLP, images: Tensor) -> Tensor:
    """Theta of an MLP, without norms or with layer norms, (N, C, N, C), with no Jacobian:

    Theta = sum over linear layers of (H_{l-1} H_{l-1}^T + 1) o (A_l A_l^T), A_l = d logits / d (W_l h_{l-1} + b_l), and
    of norms z = gain * n + shift with Z_l = d logits / d z_l  (Z_l * n_l)(Z_l * n_l)^T + Z_l Z_l^T; (N, C, width)
    """
    network = copy.deepcopy(network).double()
    with torch.enable_grad():
        before: list[Tensor] = [images.double().flatten(1)]
        linear: list[Tensor] = []
        normed: list[Tensor] = []
        for hidden, norm in zip(network.hidden, network.norms, strict=True):
            linear.append(hidden(before[-1]))
            normed.append(norm(linear[-1]))
            before.append(ACTIVATIONS[network.activation](normed[-1]))
        logits = network.classifier(before[-1])
        classes = logits.shape[1]
        # samples do not mix, so that the gradient of a sum over samples holds each one's own
        rows = [
            torch.autograd.grad(logits[:, c].sum(), [*linear, *normed], retain_graph=c < classes - 1)
            for c in range(classes)
        ]
    slopes = [torch.stack(found, 1) for found in zip(*rows, strict=True)]  # N x C x width, by layer
    before = [h.detach() for h in before]
    last = (before[-1] @ before[-1].T + 1)[:, None, :, None]
    total = last * torch.eye(classes, dtype=last.dtype, device=last.device)[None, :, None, :]  # N x C x N x C
    for layer, (h, norm) in enumerate(zip(before[:-1], network.norms, strict=True)):
        total += (h @ h.T + 1)[:, None, :, None] * _gram(slopes[layer])
        if isinstance(norm, nn.LayerNorm):
            of_norm = slopes[len(linear) + layer]
            unscaled = F.layer_norm(linear[layer].detach(), linear[layer].shape[1:], eps=norm.eps)
            total += _gram(of_norm * unscaled[:, None]) + _gram(of_norm)
    return total


def _gram(slopes: Tensor) -> Tensor:
    """Inner products of slopes (N, C, width) over the width: (N, C, N, C)."""
    n, classes, _ = slopes.shape
    flat = slopes.reshape(n * classes, -1)
    return (flat @ flat.T).reshape(n, classes, n, classes)


def jacobian_kernel(network: nn.Module, images: Tensor, budget: int = BUDGET) -> Tensor:
    """Theta (N, C, N, C) of any network that treats samples one by one in its mode, from Jacobians.

    Of some parameters at a time: at most `budget` bytes of Jacobians are kept, and they are summed in float64.
    """
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        classes = network(images[:1]).shape[1]
    n, size = len(images), next(network.parameters()).element_size()
    total = torch.zeros(n * classes, n * classes, dtype=torch.float64, device=images.device)
    for group in _groups(network, _columns(n * classes, size, budget)):
        names = list(dict.fromkeys(name for name, _, _ in group))
        chosen = {name: held[name].detach() for name in names}
        rest = {name: value.detach() for name, value in held.items() if name not in chosen}

        def logits(parameters: dict[str, Tensor], image: Tensor, rest: dict[str, Tensor] = rest) -> Tensor:
            found: Tensor = functional_call(network, {**rest, **parameters}, (image[None],))
            return found[0]

        jacobian = vmap(jacrev(logits), in_dims=(None, 0))
        together = max(1, budget // max(1, size * classes * sum(held[name].numel() for name in names)))
        rows = []
        for start in range(0, n, together):
            found = jacobian(chosen, images[start : start + together])
            pieces = [found[name].flatten(2)[:, :, first:last] for name, first, last in group]
            rows.append(torch.cat(pieces, 2).flatten(0, 1).detach())  # (samples C) x columns
        j = torch.cat(rows)
        total += (j @ j.T).double()
    return total.reshape(n, classes, n, classes)


def _columns(rows: int, size: int, budget: int) -> int:
    """Parameters whose Jacobians fit: what is kept is there twice while it is put together."""
    return max(1, budget // (2 * rows * size))


def _groups(network: nn.Module, columns: int) -> Iterator[list[tuple[str, int, int]]]:
    """Parts of parameters (name, first, last) of at most `columns` entries together."""
    group: list[tuple[str, int, int]] = []
    room = columns
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        cuts = [0]
        while cuts[-1] < parameter.numel():
            if room == 0:
                yield group
                group, room = [], columns
            step = min(room, parameter.numel() - cuts[-1])
            group.append((name, cuts[-1], cuts[-1] + step))
            cuts.append(cuts[-1] + step)
            room -= step
    if group:
        yield group


def trace_kernel(full: Tensor) -> Tensor:
    """K (N, N) of Theta (N, C, N, C)."""
    kernel: Tensor = torch.einsum("icjc->ij", full)
    return kernel


def centred(kernel: Tensor) -> Tensor:
    """H K H, H = I - 11^T/n: without the direction that moves the outputs of all samples together.

    What every sample shares, as pixels that are not centred or an offset, makes the kernel of a fresh network near
    rank one and is no harm.
    """
    rows = kernel - kernel.mean(0, keepdim=True)
    found: Tensor = rows - rows.mean(1, keepdim=True)
    return found


def spectrum(kernel: Tensor) -> Tensor:
    """Eigenvalues of a kernel (n, n), largest first; what rounding made negative is zero."""
    values: Tensor = torch.linalg.eigvalsh(kernel.double())
    return values.flip(0).clamp_min(0).cpu()


def effective_rank(eigenvalues: Tensor) -> float | None:
    """exp of the entropy of the normalised eigenvalues (Roy & Vetterli); None for a kernel of zeros; low = few
    directions in which learning can move the outputs."""
    found = eigenvalues.double().numpy()
    return entropy_rank(found / found.max()) if found.max(initial=0.0) > 0 else None


def condition(eigenvalues: Tensor, precision: torch.dtype = torch.float64) -> float | None:
    """Largest over smallest eigenvalue; None where the smallest is not above the rounding; high = hard to learn."""
    largest, smallest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest / smallest if smallest > len(eigenvalues) * torch.finfo(precision).eps * largest else None


def gradient_interference(
    full: Tensor, logits: Tensor, labels: Tensor, objective: Objective = CROSS_ENTROPY
) -> tuple[float, float] | None:
    """Mean cosine between the loss gradients of different samples, and the share of pairs that is negative.

    The gradient of sample i's loss is sum over c of residual_ic df_ic/dtheta (softmax(f)_ic - [y_i = c] under
    cross-entropy), so that all inner products follow from Theta (N, C, N, C), logits (N, C) and labels (N,) or the
    numbers asked (N, K). Samples without a gradient are left out; None with fewer than two others. Positive =
    learning one sample teaches the others; negative = it undoes them.
    """
    residual = objective.residual(logits.double(), labels.double() if labels.is_floating_point() else labels)
    size = residual.abs().sum(1, keepdim=True)
    residual = residual / torch.where(size > 0, size, 1.0)  # cosines do not depend on the gradients' lengths
    gram = torch.einsum("ic,icjd,jd->ij", residual, full.double(), residual)
    norms = gram.diagonal().clamp_min(0).sqrt()
    kept = norms > 0
    if int(kept.sum()) < 2:
        return None
    cosine = (gram / (norms[:, None] * norms))[kept][:, kept]
    apart = cosine[~torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)]
    return float(apart.mean()), float((apart < 0).double().mean())


NTK_METRICS = (
    "ntk_effective_rank", "ntk_condition", "ntk_trace", "ntk_top_share", "ntk_centred_effective_rank",
    "ntk_full_effective_rank", "ntk_full_condition", "gradient_interference", "gradient_interference_negative",
)  # fmt: skip
"""In the order of `ntk_metrics`."""


def ntk_metrics(
    network: nn.Module, batch: Batch, names: Sequence[str] = NTK_METRICS, budget: int = BUDGET
) -> tuple[dict[str, float], dict[str, str]]:
    """The named metrics of the kernel on a batch, and why one is undefined."""
    if not names:
        return {}, {}
    full = full_kernel(network, batch.images, budget)
    with torch.no_grad():
        logits = network(batch.images)
    if not bool(torch.isfinite(full).all()):
        return {}, dict.fromkeys(names, "the kernel is not finite")
    precision = torch.float64 if has_closed_form(network) else logits.dtype
    n, classes = logits.shape
    found: dict[str, float | None] = {}
    trace = trace_kernel(full)
    for name, kernel in (("ntk", trace), ("ntk_full", full.reshape(n * classes, n * classes))):
        if {name for name in names if name.startswith("ntk")} & {f"{name}_{what}" for what in _OF_SPECTRUM}:
            eigenvalues = spectrum(kernel)
            found[f"{name}_effective_rank"] = effective_rank(eigenvalues)
            found[f"{name}_condition"] = condition(eigenvalues, precision)
            found[f"{name}_trace"] = total = float(kernel.diagonal().sum())
            found[f"{name}_top_share"] = float(eigenvalues[0]) / total if total > 0 else None
    if "ntk_centred_effective_rank" in names:
        found["ntk_centred_effective_rank"] = effective_rank(spectrum(centred(trace)))
    interference = gradient_interference(full, logits, batch.labels, batch.objective) or (None, None)
    found |= dict(zip(NTK_METRICS[-2:], interference, strict=True))
    values = {name: value for name in names if (value := found[name]) is not None}
    return values, {name: _WHY[name.rsplit("_", 1)[-1]] for name in names if name not in values}


_OF_SPECTRUM = ("effective_rank", "condition", "trace", "top_share")

_WHY = {
    "rank": "the kernel is zero", "share": "the kernel is zero", "condition": "the kernel is singular",
    "interference": "fewer than two samples have a gradient", "negative": "fewer than two samples have a gradient",
}  # fmt: skip
"""Why a metric is undefined, by the last word of its name."""
