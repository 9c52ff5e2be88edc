"""A small real workload for GCOS to place: tiny language models, text data sets and two jobs.

`make` writes the artifacts from one seed. `generate` (batch inference) and `evaluate`
(perplexity) are the commands of tasks: they find their artifacts through `GCOS_MODEL_DIR`,
`GCOS_DATA_DIR` and `GCOS_OUTPUT_DIR`, and need numpy and onnxruntime alone.
"""
