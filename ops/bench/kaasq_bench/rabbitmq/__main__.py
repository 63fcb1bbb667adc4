"""A private node by hand.

python -m kaasq_bench.rabbitmq              # a throw-away broker on a free port, until Ctrl-C
python -m kaasq_bench.rabbitmq --port 5672  # or on a port of your choice
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from kaasq_bench.rabbitmq.installation import NodeError
from kaasq_bench.rabbitmq.node import RabbitNode


def main() -> None:
    """Run a node in the foreground until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        description="Start a private RabbitMQ node and keep it until Ctrl-C. Its data are gone afterwards."
    )
    parser.add_argument("--port", type=int, help="AMQP port (default: a free one)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the broker's data in DIR")
    parser.add_argument("--root", type=Path, metavar="DIR", help="run the RabbitMQ in a debootstrap folder (as root)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a line of rabbitmq.conf")
    options = parser.parse_args()
    config = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in options.set)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with RabbitNode(port=options.port, folder=options.data, root=options.root, config=config) as node:
            print(f"RabbitMQ {node.version} is ready; Ctrl-C stops it.")
            print(f"export KAASQ_BROKER_URL={node.url}")
            print(f"management: {node.management_url}", flush=True)
            while node.running:
                time.sleep(0.5)
            sys.exit("RabbitMQ ended by itself:\n" + node.log_tail())
    except KeyboardInterrupt:
        print("stopped")
    except NodeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
