"""Counts the words of a data set and keeps the commonest."""

import collections
import json
import os
from pathlib import Path

text = (Path(os.environ["GCOS_DATA_DIR"]) / "documents.txt").read_text(encoding="utf-8")
# Files of the workdir lie in the current directory.
ignored = set(Path("ignored.txt").read_text(encoding="utf-8").split())
words = collections.Counter(word for word in text.lower().split() if word not in ignored)
kept = Path(os.environ["GCOS_OUTPUT_DIR"]) / "words.json"
kept.write_text(json.dumps(dict(words.most_common(20)), indent=2))
print(f"{words.total()} words, {len(words)} different ones")
