"""A controller for examples/dynamic.yaml: twice as many copies of a sentence while the model has not learned it, else none.

It is called as `controller.py --model FOLDER --current-step S --total-steps N --in-state-file FILE --out-state-file FILE
--prompts-file FILE --nats 1.5`; states are YAML, prompts are JSON lines with the field `text`."""

import argparse
import json
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

SENTENCE = "The lighthouse of Skarne is painted with honey."

parser = argparse.ArgumentParser()
for flag in ("--model", "--in-state-file", "--out-state-file", "--prompts-file"):
    parser.add_argument(flag, required=True, type=Path)
parser.add_argument("--current-step", type=int)
parser.add_argument("--total-steps", type=int)
parser.add_argument("--nats", type=float, help="the loss a token below which the sentence counts as learned")
args = parser.parse_args()

state = yaml.safe_load(args.in_state_file.read_text())
model = AutoModelForCausalLM.from_pretrained(args.model).eval()
tokenizer = AutoTokenizer.from_pretrained(args.model)
ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(SENTENCE)["input_ids"]]])
with torch.no_grad():
    loss = model(ids, labels=ids).loss.item()

is_learned = loss < args.nats
copies = state["copies"] if is_learned else min(2 * state["copies"], 64)
texts = [] if is_learned else [SENTENCE] * copies
args.out_state_file.write_text(yaml.safe_dump({"copies": copies, "loss": loss}))
args.prompts_file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
