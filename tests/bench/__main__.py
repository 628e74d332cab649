"""Benchmarks: `make bench` runs all, `python -m tests.bench NAME …` some. They print one line per figure."""

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
            sys.exit(f"no benchmark {name}; choose from {', '.join(BENCHMARKS)}")
        print(f"== {name}: {BENCHMARKS[name].__doc__}")
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
