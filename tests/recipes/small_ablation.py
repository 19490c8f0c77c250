"""A small ablation on a small corpus, for the tests of the command line and the driver."""

from pathlib import Path

ABLATION = """\
# Do the topologies differ?
# python -m recipes.fit --config small.yaml
ablation:
  seeds: [0, 1]
  axes:
    topology:
      residual: {model.init_args.topology: {class_path: mhc.Residual}}
      mhc: {model.init_args.topology: {class_path: mhc.ManifoldHyperConnection, init_args: {streams: 2}}}
"""

RUN = """\
model:
  class_path: recipes.modules.LanguageModel
  init_args:
    vocabulary_size: 256
    width: 16
    depth: 1
    topology: {class_path: mhc.HyperConnection, init_args: {streams: 2}}
    attention: {class_path: mhc.Attention, init_args: {heads: 2}}
    feed_forward: {class_path: mhc.FeedForward, init_args: {hidden: 32}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1e-3}}
data:
  class_path: recipes.data.TextCorpus
  init_args: {path: corpus.txt, sequence_length: 16, batch_size: 4, split_blocks: 2, validation_batches: 1}
signal_gain: {every_n_steps: 4, figures: false}
checkpoint: {every_n_train_steps: 5}
trainer: {max_steps: 12, val_check_interval: 6, accelerator: cpu}
"""


def write(folder: Path, ablation: str = ABLATION, run: str = RUN) -> Path:
    """Write small.yaml and its corpus; the file's path."""
    words = ("stream", "state", "sublayer", "trunk", "variant", "axis", "cell", "view")
    text = " ".join(words[(7 * k * k + k // 3) % len(words)] for k in range(1500))
    (folder / "corpus.txt").write_text(text)
    path = folder / "small.yaml"
    path.write_text(ablation + run)
    return path
