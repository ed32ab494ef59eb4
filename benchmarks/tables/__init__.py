"""The tables of the README and of docs/results, made from the results of the benchmarks."""
