"""Makes built-ins ready: steps from the table, kernels compiled and loaded once, products prepared by the library."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from kaasq.builtins import Call
from kaasq.errors import ModuleRejected
from kaasq.log import get_logger
from kaasq_workers.devices.cuda.builtins.custom import CustomOperation
from kaasq_workers.devices.cuda.builtins.operation import CudaOperation, KernelPart, ProductPart, Queued
from kaasq_workers.devices.cuda.builtins.products import ProductFailed, Products, open_products
from kaasq_workers.devices.cuda.builtins.sources import module_of
from kaasq_workers.devices.cuda.builtins.steps import SCRATCH, Bounds, KernelStep, Step
from kaasq_workers.devices.cuda.builtins.table import PLANS
from kaasq_workers.devices.cuda.builtins.workspaces import Workspaces
from kaasq_workers.devices.cuda.module import CudaKernel

if TYPE_CHECKING:
    from kaasq_workers.devices.cuda.device import CudaDevice

log = get_logger()


class Builtins:
    """Those of one device. Kernels stay loaded: there are only so many of them, whatever is asked for."""

    def __init__(self, device: CudaDevice, index: int, workspaces: Workspaces) -> None:
        self._device = device
        self._index = index
        self._workspaces = workspaces
        self._bounds = Bounds(scratch_bytes=workspaces.scratch_bytes)
        self._kernels: dict[str, CudaKernel] = {}

    @cached_property
    def products(self) -> Products:
        """The library for matrix products, opened when first needed."""
        try:
            found = open_products()
        except ProductFailed as error:
            raise ModuleRejected(f"{self._device.name} cannot multiply matrices: {error}") from error
        log.info("builtins.products", device=self._device.name, library=found.name)
        return found

    def prepare(self, call: Call) -> CudaOperation:
        """The operation of a call. Raises ModuleRejected, OutOfMemory."""
        name = call.builtin.name
        if call.builtin.run is not None:
            return CustomOperation(call, self._index)
        plan = PLANS.get(name)
        if plan is None:
            raise ModuleRejected(f"{self._device.name} has no built-in {name!r}", kernel=name)
        parts = tuple(self._part(step, name) for step in plan(call, self._bounds))
        return CudaOperation(call, parts)

    def close(self) -> None:
        """Release what libraries hold."""
        if "products" in self.__dict__:
            self.products.close()

    def _part(self, step: Step, name: str) -> Queued:
        if isinstance(step, KernelStep):
            if any(getattr(arg, "name", None) == SCRATCH for arg in step.args):
                self._workspaces.need()
            return KernelPart(step, self._kernel(step))
        try:
            product = self.products.prepare(step, self._workspaces.product_bytes)
        except ProductFailed as error:
            raise ModuleRejected(
                f"{name}: {self.products.name} cannot do this product: {error}", kernel=name
            ) from error
        if product.workspace_bytes or SCRATCH in {each.at.name for each in (step.a, step.b, step.c)}:
            self._workspaces.need()
        return ProductPart(step, product)

    def _kernel(self, step: KernelStep) -> CudaKernel:
        found = self._kernels.get(step.kernel)
        if found is None:
            found = self._device.load(module_of(step.family, step.kernel), (step.kernel,)).kernel(step.kernel)
            self._kernels[step.kernel] = found
        return found
