"""How long loading a large checkpoint takes, and how much memory of its own the process takes for it.

A checkpoint of the shape of BERT in bfloat16 is written once; each load runs in a fresh process, with `torch` and
`AutoModel` imported before and the file in the page cache. The first load of a process also imports what a library
left for later, so a second one in the same process is measured too. Private memory is the growth of anonymous pages
(`RssAnon`): mapped pages of the file are shared and can be dropped at any time. As mapped weights are first read when
they are used, the time until a first sentence is through the model is measured as well.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from common import MB, OWN, PEER, Row, finish, interleave_processes, medians, parser, show, temporary_folder

SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
LAYER_PARAMETERS = 4 * 2048 * 2048 + 2 * 2048 * 8192
CHUNK = 64 * MB

LOAD = """
import sys
import torch
from {library} import AutoModel
from time import perf_counter

def private_memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

ids = torch.arange(1000, 1016)[None]
before = private_memory()
start = perf_counter()
model = AutoModel.from_pretrained(sys.argv[1])
loaded = perf_counter() - start
memory = private_memory() - before
with torch.inference_mode():
    checksum = model(input_ids=ids).last_hidden_state.float().abs().mean().item()
answered = perf_counter() - start
assert model.dtype == torch.bfloat16
del model
start = perf_counter()
model = AutoModel.from_pretrained(sys.argv[1])
print(loaded, memory, answered, perf_counter() - start, checksum)
"""
"""Prints seconds of the first load, bytes, seconds to a first answer, seconds of a second load, and a checksum."""


def write_checkpoint(folder: Path, gigabytes: float) -> int:
    """Write `config.json` and `model.safetensors` of about `gigabytes` (10⁹ bytes), a piece at a time; the bytes."""
    import torch

    from pellucid import BertConfig, BertModel

    layers = max(1, round((gigabytes * 1e9 / 2 - SIZES["vocab_size"] * SIZES["hidden_size"]) / LAYER_PARAMETERS))
    config = BertConfig(**SIZES, num_hidden_layers=layers, architectures=["BertModel"])
    config.dtype = "bfloat16"
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in BertModel(config).named_parameters()}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    random = torch.randn(CHUNK // 2, generator=torch.Generator().manual_seed(0)).mul(0.02).bfloat16()
    numbers = memoryview(random.view(torch.uint8).numpy())
    config.to_json_file(folder / "config.json")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for begin in range(0, end, CHUNK):
            file.write(numbers[: min(CHUNK, end - begin)])
    return 8 + len(text) + end


def main() -> None:
    """Write the checkpoint, load it in turn, compare."""
    options = parser(__doc__)
    options.add_argument("--gb", type=float, help="size of the checkpoint in 10⁹ bytes (default 2.2)")
    given = options.parse_args()
    if not Path("/proc/self/status").exists():
        sys.exit("private memory is read from /proc/self/status, which this system does not have")
    gigabytes = given.gb or (0.3 if given.quick else 2.2)
    with temporary_folder(needed=int(gigabytes * 1e9)) as folder:
        size = write_checkpoint(folder, gigabytes)
        show(f"wrote {size:,} bytes")
        codes = {name: LOAD.format(library=name) for name in (PEER, OWN)}
        runs = interleave_processes(codes, 1 if given.quick else 7, folder)
    for name in (PEER, OWN):
        show(f"{name}: " + ", ".join(f"{loaded:.3f} s {memory / MB:.0f} MB" for loaded, memory, *_ in runs[name]))
    peer, own = medians(runs[PEER]), medians(runs[OWN])
    if abs(peer[-1] - own[-1]) > 1e-2 * abs(peer[-1]):
        sys.exit(f"{PEER} gives a mean activation of {peer[-1]}, {OWN} {own[-1]}: not the same model")
    rows = [
        Row(f"load a {size / 1e9:.1f} GB bf16 checkpoint, first in a process", peer[0], own[0], goal=20),
        Row("private memory it takes", peer[1], own[1], unit="bytes", at_most=300 * MB),
        Row("load it and run a first sentence of 16 tokens", peer[2], own[2]),
        Row("load it again in the same process", peer[3], own[3]),
    ]
    finish(rows, given)


if __name__ == "__main__":
    main()
