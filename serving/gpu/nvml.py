"""The one place that calls NVML. It needs the driver, not CUDA, and is not bound by CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_UNANSWERED = frozenset({2, 3, 4, 6, 13, 25, 999})
"""NVML return codes that mean "not on this GPU or not for you": invalid argument, not supported, no permission, not
found, function not found, older structure, unknown. The rest means that the GPU or the driver is broken."""


class NvmlUnavailableError(Exception):
    """There is no usable NVIDIA driver here. The text says why."""


class NvmlCallError(Exception):
    """A GPU did not answer a question that every working GPU answers."""

    def __init__(self, function: str, code: int, text: str) -> None:
        super().__init__(f"{function}: {text}")
        self.code = code


class Nvml:
    """An open NVML session."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def ask(self, function: str, *arguments: Any) -> Any:
        """Calls an NVML function.

        Returns:
            Its value; None where this GPU, driver or user cannot have it.

        Raises:
            NvmlCallError: the GPU is lost or the driver is broken.
        """
        try:
            return getattr(self._module, function)(*arguments)
        except self._module.NVMLError as error:
            if error.value in _UNANSWERED:
                return None
            raise NvmlCallError(function, error.value, str(error)) from error

    def need(self, function: str, *arguments: Any) -> Any:
        """Like `ask`, for what every GPU answers; None is an error too."""
        value = self.ask(function, *arguments)
        if value is None:
            raise NvmlCallError(function, 999, "no answer")
        return value

    def constant(self, name: str) -> int:
        """A number that NVML names."""
        return int(getattr(self._module, name))


@contextlib.contextmanager
def open_nvml() -> Iterator[Nvml]:
    """A session with NVML.

    Raises:
        NvmlUnavailableError: no library, no driver, or no permission for its device nodes.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailableError(str(error)) from error
    try:
        yield Nvml(pynvml)
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
