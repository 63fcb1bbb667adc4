"""The built-in spectrum.power: power spectra of signals, by NumPy's FFT on a CPU and CuPy's on a GPU."""

from kaasq.builtins import Builtin, Mistake, number, reads, writes
from kaasq.builtins.rules import has_shape, same_dtype

DTYPES = ("float32", "float64")
WINDOWS = ("none", "hann")


def check(call):
    """Whether a call can be right; runs before anything else does, here and on the worker."""
    same_dtype(call, "x", "out")
    if call.attrs["window"] not in WINDOWS:
        raise Mistake(f"window is one of {', '.join(WINDOWS)}; given {call.attrs['window']!r:.40}", "window")
    *signals, length = call.shape("x") or (0,)
    if length < 2:
        raise Mistake(
            f"x is to hold signals of 2 samples or more along its last axis, has shape {call.shape('x')}", "x"
        )
    has_shape(call, "out", (*signals, length // 2 + 1))


def run(xp, operands, attrs):
    """``out = |rfft(gain * x * window)|² / length``, along the last axis. ``xp`` is NumPy or CuPy."""
    x, out = operands["x"], operands["out"]
    length = x.shape[-1]
    signals = x * x.dtype.type(operands["gain"])
    if attrs["window"] == "hann":
        signals = signals * xp.hanning(length).astype(x.dtype)
    spectrum = xp.fft.rfft(signals, axis=-1)
    xp.multiply(spectrum.real, spectrum.real, out=out, casting="same_kind")
    out += spectrum.imag**2
    out /= length


POWER = Builtin(
    "spectrum.power",
    parameters=(reads("x", DTYPES), writes("out", DTYPES), number("gain", 1.0)),
    check=check,
    attributes={"window": "none"},
    run=run,
    summary="out = |rfft(gain x)|² / length along the last axis, the signals tapered by a window",
)
