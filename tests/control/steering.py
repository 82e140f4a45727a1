"""Controllers that tests call by name, and scripts that they write."""

import hashlib
import os

import torch

SCRIPT = """
import argparse, hashlib, json, os, sys, time, yaml
parser = argparse.ArgumentParser()
for flag in ("model", "current-step", "total-steps", "in-state-file", "out-state-file", "prompts-file"):
    parser.add_argument(f"--{flag}", required=True)
parser.add_argument("--num", type=int, default=3)
parser.add_argument("--names", nargs="*")
parser.add_argument("--fast", action="store_true")
args = parser.parse_args()
state = yaml.safe_load(open(args.in_state_file)) or {}
step = int(args.current_step)
def out(state, texts):
    yaml.safe_dump(state, open(args.out_state_file, "w"))
    with open(args.prompts_file, "w") as file:
        file.writelines(json.dumps({"text": text}) + "\\n" for text in texts)
"""
WEIGHTS = 'hashlib.sha256(open(args.model + "/model.safetensors", "rb").read()).hexdigest()'
COUNT = 'out({"calls": state.get("calls", 0) + 1}, [f"gold ant {step} {n}" for n in range(args.num)])'
RANDOM = (
    'out({"draw": os.urandom(3).hex(), "calls": state.get("calls", 0) + 1}, [os.urandom(2).hex() for _ in range(3)])'
)


def by_weights(moment):
    """A decision that every bit of the weights changes, and that spoils its copy of them."""
    model = moment.model
    assert not model.training
    bits = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    digest = hashlib.sha256(bits).hexdigest()
    texts = [f"gray dog {digest[n : n + 2]}" for n in range(moment.args.get("num", 2))]
    if moment.args.get("spoils"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        moment.state["calls"] = 1000
        torch.manual_seed(0)
    seen = [*moment.state.get("seen", []), [moment.step, moment.num_steps]]
    return {"calls": len(seen), "seen": seen, "words": moment.tokenizer.get_vocab_size()}, texts


def by_chance(moment):
    return {"draw": int.from_bytes(os.urandom(4))}, [os.urandom(2).hex() for _ in range(3)]


def returns(moment):
    """Whatever the arguments spell in Python."""
    return eval(moment.args["value"])


NO_FUNCTION = 3
