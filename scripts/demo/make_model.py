"""Make the demo world's tokenizer and language model (about 6 minutes on one core).

Run from the repository root, with the package installed.

::

    python scripts/demo/make_model.py            # tokenizer, then model, into sae_bench/demo/data/model
    python scripts/demo/make_model.py --steps 50 --out trial/model   # a quick trial
    python scripts/demo/make_model.py --ladder   # leaves the model as it is, and makes the ladder again

Beside the folder of the model it writes ``ladder.safetensors``: the losses of checkpoints of the training, each rounded
to float16 as the model is, on every evaluation document. A training on another machine ends elsewhere, if only a
little; with ``--ladder`` the last losses are those of the model that lies there, and how far the end of this training
is from it is printed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_bench import demo

END = "<|endoftext|>"
VOCABULARY = 1536
CONTEXT = 128
BATCH = 16
# Another seed than the one that users get by default: what is trained on is not what anyone probes.
SEED = 1
# Steps after which losses are kept: a sixteenth of the training, twice as many each time, three quarters; then the end.
KEPT = (125, 250, 500, 1000, 1500, 2000)


def make_tokenizer(out: Path, texts: list[str]) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer (digits one by one, END as BOS, EOS and padding with id 0) and save it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=END, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(out)
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, BOS first; a document that does not fit into the context is an error."""
    rows = [[0, *ids] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    longest = max(map(len, rows))
    if longest > CONTEXT:
        raise SystemExit(f"a document has {longest} tokens, more than the context of {CONTEXT}")
    return rows


def batch_of(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids and labels [batch, longest]; padding has the label -100."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, : len(row)] = ids[i, : len(row)]
    return ids, labels


def batches(rows: list[list[int]], generator: torch.Generator) -> list[list[int]]:
    """Indices in batches of similar length, in random order: little padding, no order to learn."""
    order = torch.randperm(len(rows), generator=generator).tolist()
    groups: list[list[int]] = []
    for start in range(0, len(order) - BATCH + 1, BATCH * 40):
        chunk = sorted(order[start : start + BATCH * 40], key=lambda i: len(rows[i]))
        groups += [chunk[i : i + BATCH] for i in range(0, len(chunk) - BATCH + 1, BATCH)]
    return [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]


def mean_loss(model: GPT2LMHeadModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean nats per predicted token. Padding is on the right, so that a causal model needs no mask for it."""
    logits = model(ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


@torch.no_grad()
def cross_entropy(model: GPT2LMHeadModel, rows: list[list[int]]) -> float:
    """Mean nats per predicted token over all rows."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(rows), BATCH):
        ids, labels = batch_of(rows[start : start + BATCH])
        n = int((labels[:, 1:] != -100).sum())
        total += float(mean_loss(model, ids, labels)) * n
        count += n
    model.train()
    return total / count


@torch.no_grad()
def losses(model: GPT2LMHeadModel, rows: list[list[int]]) -> torch.Tensor:
    """Nats of each row, summed over its predictions: float64 [rows]. The model is rounded to float16 as it is saved."""
    stored = copy.deepcopy(model).half().float().eval()
    found = torch.zeros(len(rows), dtype=torch.float64)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), BATCH):
        of = order[start : start + BATCH]
        ids, labels = batch_of([rows[i] for i in of])
        logits = stored(ids).logits[:, :-1]
        ce = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
        )
        found[of] = ce.double().sum(1)
    return found


class Ladder:
    """Losses of checkpoints on the evaluation documents, as they are passed by."""

    def __init__(self, held_out: list[list[int]]) -> None:
        self.held_out = held_out
        self.steps: list[int] = []
        self.tokens: list[int] = []
        self.found: list[torch.Tensor] = []

    def pass_by(self, model: GPT2LMHeadModel, step: int, tokens: int) -> None:
        """Keep the losses of the model after so many steps, in which it predicted so many tokens."""
        self.steps.append(step)
        self.tokens.append(tokens)
        self.found.append(losses(model, self.held_out))

    @torch.no_grad()
    def end_at(self, kept: GPT2LMHeadModel, trained: GPT2LMHeadModel) -> None:
        """Let the losses of the model that is kept be the last; print how far the one that was trained is from it."""
        last, self.found[-1] = self.found[-1], losses(kept, self.held_out)
        n = sum(len(row) - 1 for row in self.held_out)
        pairs = list(zip(kept.parameters(), trained.half().float().parameters(), strict=True))
        away = sum(float((a - b).square().sum()) for a, b in pairs) / sum(float(a.square().sum()) for a, _ in pairs)
        print(f"this training ended at {last.sum() / n:.4f}, the model that is kept has {self.found[-1].sum() / n:.4f}")
        print(f"their weights differ by {math.sqrt(away):.2g} of their norm", flush=True)

    def save(self, file: Path) -> None:
        """Write and print them."""
        predictions = torch.tensor([len(row) - 1 for row in self.held_out])
        for step, tokens, found in zip(self.steps, self.tokens, self.found, strict=True):
            print(f"after step {step} and {tokens} tokens: {float(found.sum() / predictions.sum()):.4f}", flush=True)
        tensors = {
            "steps": torch.tensor(self.steps),
            "training_tokens": torch.tensor(self.tokens),
            "predictions": predictions,
            "ce": torch.stack(self.found),
        }
        save_file(tensors, file)


def train(rows: list[list[int]], held_out: list[list[int]], steps: int, ladder: Ladder) -> GPT2LMHeadModel:
    """AdamW, warmup of 3 %, cosine decay to 5 % of the peak rate."""
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=128, n_layer=4, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=2.5e-3,
        betas=(0.9, 0.98),
    )
    warmup = max(1, round(0.03 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps)))),
    )
    generator = torch.Generator().manual_seed(SEED)
    began, step, tokens = time.monotonic(), 0, 0
    while step < steps:
        for group in batches(rows, generator):
            ids, labels = batch_of([rows[i] for i in group])
            loss = mean_loss(model, ids, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            tokens += int((labels[:, 1:] != -100).sum())
            if step in KEPT or step == steps:
                ladder.pass_by(model, step, tokens)
            if step % 200 == 0 or step == steps:
                held = cross_entropy(model, held_out[:256])
                print(f"step {step} loss {loss.item():.3f} eval {held:.3f} {time.monotonic() - began:.0f}s", flush=True)
            if step == steps:
                break
    return model


def save(model: GPT2LMHeadModel, out: Path) -> None:
    """Save as an ordinary Hugging Face folder in float16; the config says so."""
    model.half().save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config.pop("transformers_version", None)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=demo.MODEL_PATH)
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--ladder", action="store_true", help="keep the model that is there, make its ladder")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = [d.text for d in demo.documents(args.documents, seed=SEED, split="train")]
    if args.ladder:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    else:
        tokenizer = make_tokenizer(args.out, texts[:20_000])
    rows = encode(tokenizer, texts)
    held_out = encode(tokenizer, [d.text for d in demo.documents(2000, split="eval")])
    lengths = sorted(map(len, rows))
    print(f"{len(rows)} documents, tokens: median {lengths[len(lengths) // 2]}, longest {lengths[-1]}", flush=True)
    ladder = Ladder(held_out)
    model = train(rows, held_out, args.steps, ladder)
    if args.ladder:
        ladder.end_at(GPT2LMHeadModel.from_pretrained(args.out, dtype=torch.float32), model)
    ladder.save(args.out.parent / "ladder.safetensors")
    if args.ladder:
        return
    before = cross_entropy(model, held_out)
    save(model, args.out)
    after = cross_entropy(GPT2LMHeadModel.from_pretrained(args.out, dtype=torch.float32), held_out)
    print(f"eval cross-entropy {before:.4f} nats per token, {after:.4f} after the round trip through float16")


if __name__ == "__main__":
    main()
