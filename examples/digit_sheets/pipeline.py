"""Sheets of scanned digits are read: preparing, a model and its reading are steps of their own. See README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import kaasq
from examples.digit_sheets.scans import SIDE
from kaasq.importers.onnx import OnnxModel

KERNELS = kaasq.Module.from_file(Path(__file__).with_name("kernels.cu"))


def pipeline(model: OnnxModel, weights: Mapping[str, kaasq.BufferRef], sheets: int, batch: int) -> kaasq.Workflow:
    """``scans``, a list of as many sheets of ``batch`` scans (32, 32) uint8, to the ``digits`` that they show.

    Also ``sure``, how probable each is, ``counts`` of each digit, and how many are ``unsure``: below ``least``.
    ``weights``: what ``model.upload`` gave. Nothing of them travels: each sheet's request says where they lie, and the
    device keeps them from one to the next.
    """
    flow = kaasq.Workflow("digits")
    scans = flow.inputs("scans", shape=(batch, SIDE, SIDE), dtype="uint8")
    least = flow.scalar("least", "float32", default=0.6)
    prepare = flow.map("prepare", prepare_graph(batch), most=sheets, scans=scans.each)
    classify = flow.map("classify", model.graph, bind={**weights, "x": prepare["x"].each})
    read = flow.map("read", read_graph(batch), logits=classify["logits"].each)
    tally = flow.step("tally", tally_graph(sheets * batch), digits=read["digits"], sure=read["sure"], least=least)
    flow.output("digits", read["digits"])
    flow.output("sure", read["sure"])
    flow.output("counts", tally["counts"])
    flow.output("unsure", tally["unsure"])
    return flow


def prepare_graph(batch: int) -> kaasq.Graph:
    """``scans`` to ``x`` (batch, 1, 8, 8), float32: how much of each 4 x 4 block is ink."""
    graph = kaasq.Graph("digits.prepare")
    scans = graph.input("scans", shape=(batch, SIDE, SIDE), dtype="uint8", const=True)
    x = graph.output("x", shape=(batch, 1, 8, 8), dtype="float32")
    graph.launch(KERNELS.kernel("prepare"), grid=-(-batch * 64 // 128), block=128, args=[scans, x, np.int32(batch)])
    return graph


def read_graph(batch: int) -> kaasq.Graph:
    """``logits`` (batch, 10) to ``digits``, int32, and ``sure``, float32."""
    graph = kaasq.Graph("digits.read")
    logits = graph.input("logits", shape=(batch, 10), dtype="float32", const=True)
    digits = graph.output("digits", shape=batch, dtype="int32")
    sure = graph.output("sure", shape=batch, dtype="float32")
    args = [logits, digits, sure, np.int32(batch)]
    graph.launch(KERNELS.kernel("read"), grid=-(-batch // 128), block=128, args=args)
    return graph


def tally_graph(count: int) -> kaasq.Graph:
    """``digits`` and ``sure`` to ``counts`` (10) and ``unsure`` (1), int32."""
    graph = kaasq.Graph("digits.tally")
    digits = graph.input("digits", shape=count, dtype="int32", const=True)
    sure = graph.input("sure", shape=count, dtype="float32", const=True)
    counts = graph.output("counts", shape=10, dtype="int32")
    unsure = graph.output("unsure", shape=1, dtype="int32")
    least = graph.scalar("least", "float32")
    args = [digits, sure, counts, unsure, least, np.int32(count)]
    graph.launch(KERNELS.kernel("tally"), grid=-(-count // 128), block=128, args=args)
    return graph
