"""Which device: `auto` picks, a named one that is not there is an error, never a silent fall-back; and its switches."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

from ncpl_cli.errors import InputError


def resolve(name: str) -> str:
    """`auto|cpu|cuda|cuda:N|mps` -> the device's name; raises InputError when it is not there. `cpu` loads no torch."""
    if name == "cpu":
        return name
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    present = ["cpu", *(f"cuda:{n}" for n in range(gpus)), *(["mps"] if mps else [])]
    if name == "auto":
        return "cuda:0" if gpus else "mps" if mps else "cpu"
    found = "cuda:0" if name == "cuda" and gpus else name
    if found not in present:
        raise InputError(f"there is no device {name!r} here.", f"present: {', '.join(present)}; or --device auto")
    return found


def keep_memory() -> None:
    """Let this process keep what it frees, for the next epoch to use; to be called before its threads begin.

    glibc hands blocks of more than 128 KB back to the system, and of threads all that is free; to get memory anew, page
    by page, is a tenth of what short epochs cost.
    """
    trim_threshold, mmap_threshold, arenas, most = -1, -3, -8, 1 << 30
    with contextlib.suppress(OSError, AttributeError):  # another system's memory is its own affair
        mallopt = ctypes.CDLL(None).mallopt
        for what, value in ((mmap_threshold, most), (trim_threshold, most), (arenas, 1)):
            mallopt(what, value)


@contextlib.contextmanager
def arithmetic(device: str, precision: str) -> Iterator[None]:
    """The switches of CUDA as a precision means them, for as long as it lasts; they are torch's, of the whole process.

    Only deterministic convolutions, since what is resumed must end with the same bits: cuDNN's fastest weight
    gradients add up in the order in which blocks happen to finish. float32 means float32 unless TF32 was asked for.
    A thread that needs TF32 otherwise than another one has it waits for it: what runs side by side must not tell.
    """
    if not device.startswith("cuda"):
        yield
        return
    with _SWITCHES.held(short=precision == "tf32"):
        yield


class _Switches:
    """Who holds CUDA's switches: any number of threads that want them alike."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._holders = 0
        self._short = False
        self._before: tuple[bool, bool, bool, str] | None = None
        self._own = threading.local()

    @contextlib.contextmanager
    def held(self, *, short: bool) -> Iterator[None]:
        """Have them for as long as it lasts. A thread that has them already may not want them otherwise."""
        inside: int = getattr(self._own, "depth", 0)
        with self._turn:
            assert not inside or short == self._short
            if not inside:
                self._turn.wait_for(lambda: not self._holders or self._short == short)
            if not self._holders:
                self._set(short)
            self._holders += 1
        self._own.depth = inside + 1
        try:
            yield
        finally:
            self._own.depth = inside
            with self._turn:
                self._holders -= 1
                if not self._holders:
                    self._put_back()
                    self._turn.notify_all()

    def _set(self, short: bool) -> None:
        import torch

        cudnn = torch.backends.cudnn
        self._before = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision())
        self._short = short
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, short
        torch.set_float32_matmul_precision("high" if short else "highest")

    def _put_back(self) -> None:
        import torch

        assert self._before is not None
        cudnn = torch.backends.cudnn
        *flags, matmul = self._before
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = flags
        torch.set_float32_matmul_precision(matmul)


_SWITCHES = _Switches()
