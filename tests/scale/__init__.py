"""How much one coordinator and its workers can do: `throughput` measures, `fleet` simulates."""
