"""Coverage-guided fuzzing of the decoder with atheris: whatever the bytes are, they decode or are a KaasqError.

``python -m kaasq_faults.fuzz SECONDS SEED FOLDER`` in a process of its own, as atheris never returns.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kaasq"]):
    from kaasq import codec
    from kaasq.checks import GraphLimits
    from kaasq.codec import RequestDecoder
    from kaasq.errors import KaasqError

from kaasq_faults.hostile import bodies

DECODER = RequestDecoder(GraphLimits())
EXAMPLES = 1000
MOST_BYTES = 16_384
TYPES = (codec.MSGPACK, codec.JSON, None)


def one(data: bytes) -> None:
    """The first byte chooses the content type."""
    if not data:
        return
    content_type = TYPES[data[0] % len(TYPES)]
    for decode in (DECODER.read, codec.decode_reply):
        try:
            decode(data[1:], content_type)
        except KaasqError as error:
            str(error)


def main() -> None:
    """See the module."""
    seconds, seed, folder = sys.argv[1:]
    draw = random.Random(seed)
    examples = bodies(draw)
    corpus = Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(EXAMPLES):  # so that it need not find the format by itself
        body, content_type = next(examples)
        (corpus / str(number)).write_bytes(bytes([TYPES.index(content_type)]) + body)
    options = [f"-max_total_time={seconds}", f"-seed={draw.getrandbits(31)}", f"-max_len={MOST_BYTES}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
