"""Launches recorded as a CUDA graph: captured from a stream once, launched as one, its kernels' arguments updated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cuda.bindings import driver
from cupy.cuda import runtime

from kaasq.errors import KaasqError
from kaasq.log import get_logger
from kaasq.model import Dim3
from kaasq_workers.devices.cuda.errors import DriverCallFailed, Poisonable, done, run_error
from kaasq_workers.devices.cuda.module import CudaKernel
from kaasq_workers.devices.protocol import Arguments, LoadedKernel, Stream

if TYPE_CHECKING:
    from kaasq_workers.devices.cuda.stream import CudaStream

log = get_logger()

_MODE = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_DEPENDENCIES = 3  # where cuStreamGetCaptureInfo has them, in CUDA 12 and 13


class CudaRecording:
    """An executable CUDA graph of what some calls queued, in order."""

    def __init__(self, graph: Any, nodes: list[Any], device: Poisonable) -> None:
        """``nodes``: per call the one kernel node that it made, None where it made something else. Takes the graph."""
        self._destroy = driver.cuGraphExecDestroy, driver.cuGraphDestroy  # kept: the interpreter may end before this
        self._graph, self._exec = graph, None
        self._device = device
        self._nodes = nodes
        self._exec = done(driver.cuGraphInstantiate(graph, 0))
        self._address = int(self._exec)

    def replay(self, stream: Stream) -> None:
        """Queue the whole graph. Raises KernelFailed."""
        pointer: int = stream.pointer  # type: ignore[attr-defined]  # a CudaStream's
        try:
            runtime.graphLaunch(self._address, pointer)  # CuPy's wrapper takes plain numbers, and so least time
        except runtime.CUDARuntimeError as error:
            raise run_error(error, self._device, f"a replay of {len(self._nodes)} launches") from error

    def update(
        self, index: int, kernel: LoadedKernel, grid: Dim3, block: Dim3, arguments: Arguments, shared_bytes: int
    ) -> bool:
        """New arguments for a recorded launch; False if what was recorded there is no single kernel."""
        assert isinstance(kernel, CudaKernel)
        node = self._nodes[index]
        if node is None:
            return False
        parameters = driver.CUDA_KERNEL_NODE_PARAMS()
        parameters.func = driver.CUfunction(kernel.function)
        parameters.gridDimX, parameters.gridDimY, parameters.gridDimZ = grid
        parameters.blockDimX, parameters.blockDimY, parameters.blockDimZ = block
        parameters.sharedMemBytes = shared_bytes
        parameters.kernelParams = arguments.pointers
        try:
            done(driver.cuGraphExecKernelNodeSetParams(self._exec, node, parameters))
        except DriverCallFailed as error:
            log.warning("recording.not_updated", kernel=kernel.name, reason=str(error))
            return False
        return True

    def __del__(self) -> None:
        destroy_exec, destroy_graph = self._destroy
        if self._exec is not None:
            destroy_exec(self._exec)
        destroy_graph(self._graph)


def capture(stream: CudaStream, calls: Sequence[Callable[[Stream], None]], device: Poisonable) -> CudaRecording | None:
    """Record what the calls queue on the stream; None if something in it cannot be recorded."""
    handle = stream.pointer
    nodes: list[Any] = []
    try:
        done(driver.cuStreamBeginCapture(handle, _MODE))
    except DriverCallFailed as error:
        log.info("recording.impossible", reason=str(error))
        return None
    failure: Exception | None = None
    try:
        for call in calls:
            before = nodes[-1] if nodes else None
            call(stream)
            nodes.append(_new_kernel(handle, before))
    except (KaasqError, DriverCallFailed, RuntimeError) as error:
        failure = error
    try:
        graph = done(driver.cuStreamEndCapture(handle))  # in any case: the stream is usable again after it
        if failure is None:
            return CudaRecording(graph, nodes, device)
        done(driver.cuGraphDestroy(graph))  # as far as it went
    except DriverCallFailed as error:
        failure = failure or error
    # What is really wrong with a launch shows when it is queued by itself.
    log.info("recording.impossible", reason=str(failure))
    return None


def _new_kernel(stream: int, before: Any) -> Any:
    """The node that was captured last, if it is a kernel that follows ``before`` alone; else None."""
    dependencies = done(driver.cuStreamGetCaptureInfo(stream))[_DEPENDENCIES]
    if not dependencies or len(dependencies) != 1:
        return None
    node = dependencies[0]
    if done(driver.cuGraphNodeGetType(node)) != driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL:
        return None
    return node if before is None or int(node) != int(before) else None
