"""CUDA C++ kernels, compiled by NVRTC at their first use, without a CUDA toolkit.

NVRTC and its Python bindings come with torch's CUDA builds. The machine code is kept for other
processes, because a training uses about ten kernels that take half a second each to compile.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from persona.errors import UserError
from persona.modules.cache import cache_folder, cached_file

log = logging.getLogger(__name__)

CHECKSUM = 32
"""Bytes of a SHA-256."""


def compile_cuda(
    source: str, name: str, architecture: str, defines: Mapping[str, int | str]
) -> bytes:
    """Compiles a CUDA C++ source to machine code; needs no GPU.

    Args:
        source: The code; its kernels are ``extern "C"``.
        name: Name of the source, for messages.
        architecture: Such as ``sm_90``.
        defines: Macros and their values.

    Raises:
        UserError: The bindings are absent.
        RuntimeError: The compiler reported an error or a warning.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise UserError(
            "CUDA kernels need NVIDIA's Python bindings, which come with torch's CUDA builds: "
            "pip install cuda-bindings, or use renderer=cpu trainer.accelerator=cpu"
        ) from error

    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []))
    encoded = [option.encode() for option in _options(architecture, defines)]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    # The bindings write into the bytes that they are given.
    log = bytes(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
    _checked(nvrtc.nvrtcGetProgramLog(program, log))
    message = log.rstrip(b"\0\n ").decode()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS or message:
        raise RuntimeError(f"{name} with {dict(defines)} for {architecture}: {message or status}")
    code = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(code)


class CudaModule:
    """Compiled kernels of one source on one device."""

    def __init__(self, code: bytes):
        from cuda.bindings import driver  # Comes with CUDA builds of torch.

        self.code = code  # The driver does not keep it.
        self.context = _checked(driver.cuCtxGetCurrent())
        self.module = _checked(driver.cuModuleLoadData(code))
        self.kernels: dict[str, object] = {}

    def launch(
        self, kernel: str, blocks: int | tuple[int, int, int], threads: int,
        *arguments: Tensor | int,
    ) -> None:  # fmt: skip
        """Starts a kernel on the current stream; whole numbers are passed as ``int``."""
        from cuda.bindings import driver  # Comes with CUDA builds of torch.

        # Autograd's threads have no CUDA context until they first use the device.
        if not int(_checked(driver.cuCtxGetCurrent())):
            _checked(driver.cuCtxSetCurrent(self.context))
        if kernel not in self.kernels:
            found = driver.cuModuleGetFunction(self.module, kernel.encode())
            self.kernels[kernel] = _checked(found)
        values = tuple(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
        types = tuple(ctypes.c_void_p if isinstance(a, Tensor) else ctypes.c_int for a in arguments)
        stream = torch.cuda.current_stream().cuda_stream
        grid = (blocks, 1, 1) if isinstance(blocks, int) else blocks
        function, block = self.kernels[kernel], (threads, 1, 1)
        _checked(driver.cuLaunchKernel(function, *grid, *block, 0, stream, (values, types), 0))


def _options(architecture: str, defines: Mapping[str, int | str]) -> list[str]:
    macros = [f"--define-macro={key}={value}" for key, value in sorted(defines.items())]
    return [f"--gpu-architecture={architecture}", "--std=c++17", *macros]


def kept_code(source: str, name: str, architecture: str, defines: Mapping[str, int | str]) -> bytes:
    """``compile_cuda``, or the result of an earlier run.

    A kept file begins with its checksum, and one that is damaged is compiled again.

    Raises:
        UserError: The bindings are absent.
        RuntimeError: The compiler reported an error or a warning.
    """
    made_of = f"{source} {_options(architecture, defines)} {torch.version.cuda}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    path = cache_folder() / f"{Path(name).stem}-{digest}.cubin"
    if path.exists():
        kept = path.read_bytes()
        if hashlib.sha256(kept[CHECKSUM:]).digest() == kept[:CHECKSUM]:
            return kept[CHECKSUM:]
    code = compile_cuda(source, name, architecture, defines)
    try:
        with cached_file(path) as temporary:
            temporary.write_bytes(hashlib.sha256(code).digest() + code)
    except UserError as error:
        log.warning("a kernel is compiled anew next time: %s", error)
    return code


@lru_cache(maxsize=128)
def load_cuda(path: Path, device: torch.device, **defines: int | str) -> CudaModule:
    """Kernels of a source file on a device, for one set of macros."""
    major, minor = torch.cuda.get_device_capability(device)
    code = kept_code(path.read_text(), path.name, f"sm_{major}{minor}", defines)
    with torch.cuda.device(device):
        return CudaModule(code)


def _checked(result: tuple):
    """Result of a call of the bindings, without its status.

    Raises:
        RuntimeError: The status is an error.
    """
    status, *values = result
    if status.value:
        raise RuntimeError(f"CUDA: {status.name}")
    return values[0] if values else None
