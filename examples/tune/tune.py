"""Fine-tunes a tiny language model, as little as it can honestly be: its output bias alone.

Gradient descent on the mean loss; the gradient with respect to the bias is the mean of the
predicted probabilities less the frequencies that the text has.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from testbed.workloads.evaluate import negative_log_likelihood_nats
from testbed.workloads.language_model import LanguageModel

EPOCHS, TOKENS, BATCH, SEQUENCE, RATE = 2, 81_920, 8, 256, 4.0

model_dir = Path(os.environ["GCOS_MODEL_DIR"])
output_dir = Path(os.environ["GCOS_OUTPUT_DIR"])
text = (Path(os.environ["GCOS_DATA_DIR"]) / "documents.txt").read_bytes()[:TOKENS]

model = LanguageModel.load(model_dir)
bias = np.zeros(model.config.vocabulary, dtype=np.float32)
losses = []
for epoch in range(EPOCHS):
    epoch_losses = []
    for rows in np.frombuffer(text, np.uint8).astype(np.int64).reshape(-1, BATCH, SEQUENCE):
        begin = np.full((BATCH, 1), model.config.begin_token, dtype=np.int64)
        logits, _ = model.step(
            np.concatenate([begin, rows[:, :-1]], axis=1),
            attention_mask=np.ones_like(rows),
            position_ids=np.broadcast_to(np.arange(SEQUENCE), rows.shape).copy(),
            cache=model.empty_cache(batch=BATCH),
        )
        logits += bias
        epoch_losses.append(float(negative_log_likelihood_nats(logits, rows).mean()))
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        predicted = (weights / weights.sum(axis=2, keepdims=True)).mean(axis=(0, 1))
        bias += RATE * (np.bincount(rows.ravel(), minlength=bias.size) / rows.size - predicted)
    losses.append(round(sum(epoch_losses) / len(epoch_losses), 4))
    print(f"epoch {epoch + 1}: {losses[-1]} nats per token", flush=True)

# Rounded, because the last bits differ between machines: a name should mean one content.
bias = np.round(bias * 1024) / np.float32(1024)

tuned = onnx.load(model_dir / "model.onnx")
head = next(tensor for tensor in tuned.graph.initializer if tensor.name == "head_bias")
head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + bias, "head_bias"))
content = tuned.SerializeToString(deterministic=True)
config = json.loads((model_dir / "config.json").read_text())
config |= {
    "name": "notes-tuned",
    "files_sha256": {"model.onnx": hashlib.sha256(content).hexdigest()},
}
(output_dir / "tuned").mkdir()
(output_dir / "tuned" / "model.onnx").write_bytes(content)
(output_dir / "tuned" / "config.json").write_text(json.dumps(config))
(output_dir / "losses.json").write_text(json.dumps(losses))
