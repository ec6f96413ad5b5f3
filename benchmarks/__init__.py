"""What the claims of docs/performance.md rest on; see ``benchmarks/run.py --help``."""
