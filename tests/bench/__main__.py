"""Benchmarks: `make bench`, or `python -m tests.bench NAME …` for some. Prints a line a figure."""

import sys

from tests.bench import handshake, memory, overhead, report, scale, start, stores

BENCHMARKS = {
    "handshake": handshake.run,
    "start": start.run,
    "overhead": overhead.run,
    "memory": memory.run,
    "report": report.run,
    "scale": scale.run,
    "stores": stores.run,
}


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"no benchmark {name}; there are {', '.join(BENCHMARKS)}")
        print(f"== {name}: {BENCHMARKS[name].__doc__}")
        BENCHMARKS[name]()


main()
