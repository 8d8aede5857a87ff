#!/usr/bin/env bash
# zstandard 0.25.0 (seen 2026-11-29, Python 3.11).
#
# A .zst file that ends in the middle of a frame, as a download or a copy that broke off leaves it, is read by
# zstandard.open() and by stream_reader() without an error: the data ends where the file ends. gzip raises EOFError for
# the same. A checksum in the frame does not help, as it is behind the data and is not reached. A shard of training data
# that came over incompletely is so taken for a shorter one, and its last document is cut.
#
# Seen: of 300,000 bytes from half a file about 150,000, no error. Compare the size with the one in the frame's header
# (get_frame_parameters(...).content_size) or with a manifest; zstandard.decompress() of the whole file does raise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import gzip
import random

import zstandard

data = random.Random(0).randbytes(300_000)


def length(module, name, packed):
    """How many bytes come out of the first half of a file, or the error."""
    with open(name, "wb") as file:
        file.write(packed[: len(packed) // 2])
    try:
        with module.open(name, "rb") as file:
            return len(file.read())
    except EOFError as error:
        return repr(error)


packed = zstandard.ZstdCompressor(write_checksum=True).compress(data)
from_zstd = length(zstandard, "half.zst", packed)
from_gzip = length(gzip, "half.gz", gzip.compress(data))
print(f"zstandard: {from_zstd} of {len(data)} bytes; gzip: {from_gzip}")
assert 100_000 < from_zstd < 200_000
assert from_gzip.startswith("EOFError")
assert zstandard.get_frame_parameters(packed).content_size == len(data)
try:
    zstandard.decompress(packed[: len(packed) // 2])
except zstandard.ZstdError as error:
    print("zstandard.decompress:", error)
else:
    raise AssertionError("decompress() takes it too")
PY
